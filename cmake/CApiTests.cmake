# programs that use libllama and the C API as a C++ program does (native/tests/capi), in bundled mode: none is part of `all`.
# scripts/sanitize.sh builds them with a libllama and a ggml under sanitizers, tests/capi_programs.py against those under test

if (NOT ASYMKV_BUNDLE_GGML)
    return()
endif()

find_package(Threads REQUIRED)

set(ASYMKV_CAPI "${CMAKE_CURRENT_SOURCE_DIR}/native/tests/capi")
file(GLOB ASYMKV_CAPI_PROGRAMS CONFIGURE_DEPENDS "${ASYMKV_CAPI}/*.cpp")
add_custom_target(capi)

# the built libllama has a file name without the version that programs ask for, see Libllama.cmake
add_custom_target(llama-by-soname DEPENDS llama)
if (NOT WIN32)
    set(ASYMKV_SONAME "libllama.so.${LLAMA_VERSION_MAJOR}")
    if (APPLE)
        set(ASYMKV_SONAME "libllama.${LLAMA_VERSION_MAJOR}.dylib")
    endif()
    add_custom_command(TARGET llama-by-soname POST_BUILD
        COMMAND "${CMAKE_COMMAND}" -E create_symlink "$<TARGET_FILE_NAME:llama>" "$<TARGET_FILE_DIR:llama>/${ASYMKV_SONAME}")
endif()

foreach (SOURCE ${ASYMKV_CAPI_PROGRAMS})
    get_filename_component(NAME "${SOURCE}" NAME_WE)
    add_executable(${NAME} EXCLUDE_FROM_ALL "${SOURCE}")
    target_include_directories(${NAME} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native/include")
    target_compile_features(${NAME} PRIVATE cxx_std_17)
    target_link_libraries(${NAME} PRIVATE llama ggml Threads::Threads)
    if (NOT MSVC)
        target_compile_options(${NAME} PRIVATE -Wall -Wextra)
    endif()
    set_target_properties(${NAME} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin"
        BUILD_WITH_INSTALL_RPATH OFF # they run where they are built
    )
    add_dependencies(${NAME} llama-by-soname)
    add_dependencies(capi ${NAME})
endforeach()

# libFuzzer brings a main() of its own (scripts/sanitize.sh fuzz-state)
if (ASYMKV_SANITIZE MATCHES "fuzzer-no-link")
    add_executable(fuzz-state-libfuzzer EXCLUDE_FROM_ALL "${ASYMKV_CAPI}/fuzz-state.cpp")
    target_compile_definitions(fuzz-state-libfuzzer PRIVATE ASYMKV_LIBFUZZER)
    target_include_directories(fuzz-state-libfuzzer PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native/include")
    target_compile_features(fuzz-state-libfuzzer PRIVATE cxx_std_17)
    target_link_libraries(fuzz-state-libfuzzer PRIVATE llama ggml Threads::Threads)
    target_link_options(fuzz-state-libfuzzer PRIVATE -fsanitize=fuzzer)
    set_target_properties(fuzz-state-libfuzzer PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin"
        BUILD_WITH_INSTALL_RPATH OFF
    )
    add_dependencies(fuzz-state-libfuzzer llama-by-soname)
endif()
