# programs that try the ops of the bundled ggml; none is part of `all`, tests/bundled_build.py builds and runs them:
# upstream's test-backend-ops with our cases (patches/0014-test-backend-ops.patch), and our own of native/ggml/tests

if (NOT ASYMKV_BUNDLE_GGML)
    return()
endif()

find_package(Threads REQUIRED)

set(ASYMKV_OP_TESTS "${CMAKE_CURRENT_SOURCE_DIR}/native/ggml/tests")
file(GLOB ASYMKV_OP_PROGRAMS CONFIGURE_DEPENDS "${ASYMKV_OP_TESTS}/*.cpp")

foreach (SOURCE "${ASYMKV_LLAMA_DIR}/tests/test-backend-ops.cpp" ${ASYMKV_OP_PROGRAMS})
    get_filename_component(NAME "${SOURCE}" NAME_WE)
    add_executable(${NAME} EXCLUDE_FROM_ALL "${SOURCE}")
    target_include_directories(${NAME} PRIVATE
        "${ASYMKV_OP_TESTS}" "${CMAKE_CURRENT_SOURCE_DIR}/native/ggml" "${CMAKE_CURRENT_SOURCE_DIR}/native/cache" "${ASYMKV_LLAMA_DIR}/ggml/src")
    target_compile_features(${NAME} PRIVATE cxx_std_17)
    target_link_libraries(${NAME} PRIVATE ggml ggml-base Threads::Threads)
    if (NOT MSVC)
        target_compile_options(${NAME} PRIVATE -O1 -g0) # most of their time is that of compiling
    endif()
    set_target_properties(${NAME} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin"
        BUILD_WITH_INSTALL_RPATH OFF # they run where they are built
    )
endforeach()

# the part of libllama that chooses, without the rest of it
target_sources(test-native-devices PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native/cache/llama-asymkv-native.cpp")
target_include_directories(test-native-devices PRIVATE "${ASYMKV_LLAMA_DIR}/src")
