# bundled mode: ggml and the backends that the GGML_* options choose are built from the patched tree and shipped

set(BUILD_SHARED_LIBS ON)
set(ASYMKV_RPATH "$ORIGIN")
if (APPLE)
    set(ASYMKV_RPATH "@loader_path")
endif()
set(CMAKE_INSTALL_RPATH             "${ASYMKV_RPATH}")
set(CMAKE_BUILD_WITH_INSTALL_RPATH  ON)

# llama.cpp's own defaults, where they differ from plain ggml's
if (NOT DEFINED GGML_LLAMAFILE)
    set(GGML_LLAMAFILE_DEFAULT ON)
endif()
if (NOT DEFINED GGML_CUDA_GRAPHS)
    set(GGML_CUDA_GRAPHS_DEFAULT ON)
endif()

if (APPLE)
    include(MetalKernels)
    asymkv_metal_kernels("${CMAKE_CURRENT_SOURCE_DIR}" "${ASYMKV_LLAMA_DIR}/ggml/src/ggml-metal/kernels/asymkv.metal")
endif()

# excluded from `all`: what libllama needs is built, and upstream's own install rules stay out of the wheel
add_subdirectory("${ASYMKV_LLAMA_DIR}/ggml" ggml EXCLUDE_FROM_ALL)

set(ASYMKV_GGML_TARGETS ggml ggml-base ${GGML_AVAILABLE_BACKENDS})

# what the patches add to ggml lives outside of its tree: headers for all, and sources for each backend that is built,
# native/ggml/cpu for ggml-cpu and so on
foreach (NAME ggml-base ${GGML_AVAILABLE_BACKENDS})
    target_include_directories(${NAME} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native/ggml")
    string(REGEX REPLACE "^ggml-([a-z]*).*" "${CMAKE_CURRENT_SOURCE_DIR}/native/ggml/\\1" ASYMKV_KERNELS ${NAME})
    if (IS_DIRECTORY "${ASYMKV_KERNELS}")
        file(GLOB ASYMKV_KERNEL_SOURCES CONFIGURE_DEPENDS
            "${ASYMKV_KERNELS}/*.c" "${ASYMKV_KERNELS}/*.cpp" "${ASYMKV_KERNELS}/*.cu" "${ASYMKV_KERNELS}/*.m")
        target_include_directories(${NAME} PRIVATE "${ASYMKV_KERNELS}")
        target_sources(${NAME} PRIVATE ${ASYMKV_KERNEL_SOURCES})
    endif()
endforeach()
# a damaged state may hold keys that are no numbers, as it may in stock llama.cpp: its logits are none, either, which a release
# build leaves to the caller, and where a debug build of ggml's dot product ends the process. GGML_ASSERT stays
if (ASYMKV_SANITIZE)
    target_compile_definitions(ggml-cpu PRIVATE NDEBUG)
endif()
foreach (NAME ${ASYMKV_GGML_TARGETS})
    set_target_properties(${NAME} PROPERTIES PUBLIC_HEADER "")
    get_target_property(ASYMKV_SOVERSION ${NAME} SOVERSION)
    if (ASYMKV_SOVERSION OR ASYMKV_SOVERSION EQUAL 0)
        # a wheel holds no links: ship one file, under the name that the others ask for
        set_target_properties(${NAME} PROPERTIES VERSION ${ASYMKV_SOVERSION})
    endif()
endforeach()
install(TARGETS ${ASYMKV_GGML_TARGETS}
    LIBRARY DESTINATION asymkv_gguf/lib COMPONENT asymkv NAMELINK_SKIP
    RUNTIME DESTINATION asymkv_gguf/lib COMPONENT asymkv
    ARCHIVE DESTINATION asymkv_gguf/lib COMPONENT asymkv EXCLUDE_FROM_ALL
)
