# thin mode: libllama alone is built. It needs ggml by name only: two empty libraries under upstream's sonames stand in for
# it while linking, and at run time the loader finds the real ones in the installed llama-cpp-python, with whatever
# backends (CPU, CUDA, Metal, Vulkan) they were built for.

if (WIN32)
    message(FATAL_ERROR "asymkv: on Windows the library needs ggml to link with; configure with -DASYMKV_BUNDLE_GGML=ON")
endif()

file(STRINGS "${ASYMKV_LLAMA_DIR}/ggml/CMakeLists.txt" ASYMKV_GGML_MAJOR REGEX "^set\\(GGML_VERSION_MAJOR ")
string(REGEX MATCH "[0-9]+" ASYMKV_GGML_MAJOR "${ASYMKV_GGML_MAJOR}")

file(WRITE "${CMAKE_BINARY_DIR}/empty.c" "int asymkv_stand_in_for_ggml;\n")

add_library(ggml INTERFACE)
target_include_directories(ggml INTERFACE "${ASYMKV_LLAMA_DIR}/ggml/include")
target_compile_definitions(ggml INTERFACE GGML_SHARED GGML_BACKEND_SHARED)

foreach (NAME ggml ggml-base)
    add_library(stand-in-${NAME} SHARED "${CMAKE_BINARY_DIR}/empty.c")
    set_target_properties(stand-in-${NAME} PROPERTIES
        OUTPUT_NAME              ${NAME}
        SOVERSION                ${ASYMKV_GGML_MAJOR}
        LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/stand-in"
        MACOSX_RPATH             ON
    )
    target_link_libraries(ggml INTERFACE stand-in-${NAME})
endforeach()

if (APPLE)
    target_link_options(ggml INTERFACE -Wl,-undefined,dynamic_lookup)
    set(ASYMKV_RPATH "@loader_path/../../llama_cpp/lib")
else()
    # nothing of the stand-ins is used, but the library must say that it needs ggml
    target_link_options(ggml INTERFACE -Wl,--no-as-needed -Wl,--unresolved-symbols=ignore-all)
    set(ASYMKV_RPATH "$ORIGIN/../../llama_cpp/lib")
endif()
