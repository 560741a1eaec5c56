# ggml's RPC backend, which llama-cpp-python's builds leave out: a small library of its own beside libllama, loaded when somebody
# asks for RPC. It links with ggml as libllama does.

if (TARGET ggml-rpc) # bundled mode with -DGGML_RPC=ON: built and shipped already
    return()
endif()

set(ASYMKV_RPC_DIR "${ASYMKV_LLAMA_DIR}/ggml/src/ggml-rpc")
add_library(ggml-rpc SHARED "${ASYMKV_RPC_DIR}/ggml-rpc.cpp" "${ASYMKV_RPC_DIR}/transport.cpp")
target_include_directories(ggml-rpc PRIVATE "${ASYMKV_LLAMA_DIR}/ggml/src")
target_compile_definitions(ggml-rpc PRIVATE GGML_BACKEND_BUILD GGML_BACKEND_SHARED)
target_compile_features(ggml-rpc PRIVATE cxx_std_17)
target_link_libraries(ggml-rpc PRIVATE ggml)
if (TARGET ggml-base)
    target_link_libraries(ggml-rpc PRIVATE ggml-base)
endif()
if (WIN32)
    target_link_libraries(ggml-rpc PRIVATE ws2_32)
elseif (NOT APPLE)
    # where llama-cpp-python was built with an RPC backend, too, each one calls its own functions
    target_link_options(ggml-rpc PRIVATE -Wl,-Bsymbolic)
endif()
set_target_properties(ggml-rpc PROPERTIES
    CXX_VISIBILITY_PRESET    hidden
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib"
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib"
    BUILD_WITH_INSTALL_RPATH ON
    INSTALL_RPATH            "${ASYMKV_RPATH}"
    INSTALL_RPATH_USE_LINK_PATH OFF
)

install(TARGETS ggml-rpc
    LIBRARY DESTINATION asymkv_gguf/lib COMPONENT asymkv
    RUNTIME DESTINATION asymkv_gguf/lib COMPONENT asymkv
    ARCHIVE DESTINATION asymkv_gguf/lib COMPONENT asymkv EXCLUDE_FROM_ALL
)
