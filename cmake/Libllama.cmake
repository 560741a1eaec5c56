# libllama with our sources in it, and what the wheel carries beside it

set(BUILD_SHARED_LIBS ON)
set(CMAKE_CXX_VISIBILITY_PRESET default)

# the patch to upstream's src/CMakeLists.txt adds these to libllama
file(GLOB ASYMKV_SOURCES CONFIGURE_DEPENDS
    "${CMAKE_CURRENT_SOURCE_DIR}/native/plan/*.cpp"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/plan/scores/*.cpp"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/cache/*.cpp"
)
set(ASYMKV_INCLUDE_DIRS
    "${CMAKE_CURRENT_SOURCE_DIR}/native/include"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/plan"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/cache"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/ggml"
)

# what upstream's src/CMakeLists.txt expects of the directory above it
foreach (PART MAJOR MINOR PATCH)
    file(STRINGS "${ASYMKV_LLAMA_DIR}/CMakeLists.txt" LINE REGEX "^set\\(LLAMA_VERSION_${PART} ")
    string(REGEX MATCH "[0-9]+" LLAMA_VERSION_${PART} "${LINE}")
endforeach()
set(LLAMA_VERSION_BASE  "${LLAMA_VERSION_MAJOR}.${LLAMA_VERSION_MINOR}.${LLAMA_VERSION_PATCH}")
set(LLAMA_VERSION       "${LLAMA_VERSION_BASE}-dev")
set(LLAMA_BUILD_NUMBER  0)
set(LLAMA_BUILD_COMMIT  unknown)
function(llama_add_compile_flags) # warnings and sanitizers, all optional
endfunction()

add_subdirectory("${ASYMKV_LLAMA_DIR}/src" llama)

include(Kernels)
asymkv_kernel_options("${CMAKE_CURRENT_SOURCE_DIR}/native" llama)

# one file named libllama.so (the name that llama_cpp loads) with upstream's soname (the name that libmtmd asks for);
# a wheel holds no links
set_target_properties(llama PROPERTIES
    VERSION                  ""
    SOVERSION                ""
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib"
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib"
    BUILD_WITH_INSTALL_RPATH ON
    INSTALL_RPATH            "${ASYMKV_RPATH}"
    INSTALL_RPATH_USE_LINK_PATH OFF
)
if (APPLE)
    target_link_options(llama PRIVATE "-Wl,-install_name,@rpath/libllama.${LLAMA_VERSION_MAJOR}.dylib")
elseif (NOT WIN32)
    set_target_properties(llama PROPERTIES NO_SONAME ON)
    target_link_options(llama PRIVATE "-Wl,-soname,libllama.so.${LLAMA_VERSION_MAJOR}")
endif()

install(TARGETS llama
    LIBRARY DESTINATION asymkv_gguf/lib COMPONENT asymkv
    RUNTIME DESTINATION asymkv_gguf/lib COMPONENT asymkv
    ARCHIVE DESTINATION asymkv_gguf/lib COMPONENT asymkv EXCLUDE_FROM_ALL
)
install(FILES native/include/asymkv.h DESTINATION asymkv_gguf/include COMPONENT asymkv)
install(FILES "${ASYMKV_LLAMA_DIR}/LICENSE"
    DESTINATION asymkv_gguf/licenses RENAME LICENSE.llama.cpp COMPONENT asymkv)
install(FILES "${ASYMKV_LLAMA_DIR}/LICENSE.llama-cpp-python"
    DESTINATION asymkv_gguf/licenses COMPONENT asymkv OPTIONAL)
