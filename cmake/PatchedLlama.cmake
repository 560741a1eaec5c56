# llama.cpp's source as we compile it: pinned, checked, copied into the build tree and patched there

find_package(Python3 REQUIRED COMPONENTS Interpreter)

set(ASYMKV_LLAMA_DIR "${CMAKE_BINARY_DIR}/upstream/llama.cpp")

message(STATUS "asymkv: preparing llama.cpp's source")
execute_process(
    COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/prepare_source.py"
            --patches "${CMAKE_CURRENT_SOURCE_DIR}/patches"
            --work    "${CMAKE_BINARY_DIR}/upstream"
            --source  "${ASYMKV_LLAMA_SOURCE}"
    RESULT_VARIABLE ASYMKV_RESULT
    ERROR_VARIABLE  ASYMKV_ERROR
    ERROR_STRIP_TRAILING_WHITESPACE
)
if (NOT ASYMKV_RESULT EQUAL 0)
    message(FATAL_ERROR "asymkv: ${ASYMKV_ERROR}")
endif()

# a changed patch configures again, and so prepares again
file(GLOB ASYMKV_PATCHES CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/patches/*.patch")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    "${CMAKE_CURRENT_SOURCE_DIR}/patches/series"
    ${ASYMKV_PATCHES}
    "${CMAKE_CURRENT_LIST_DIR}/prepare_source.py"
    "${CMAKE_CURRENT_LIST_DIR}/strict_patch.py"
)
