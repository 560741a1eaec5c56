# the same source gives the same bytes, in whatever directory it is built: assertions and debug information name files
# relative to the project

if (NOT MSVC)
    foreach (DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_BINARY_DIR}")
        # a debugger wants to find the files, and CUDA's compiler driver does not know the option
        add_compile_options("$<$<AND:$<NOT:$<CONFIG:Debug>>,$<COMPILE_LANGUAGE:C,CXX>>:-ffile-prefix-map=${DIRECTORY}/=>")
    endforeach()
endif()
