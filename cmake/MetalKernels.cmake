# our own kernels for ggml-metal, as one file without headers of ours: Metal compiles kernels where it runs, out of the text

function (asymkv_metal_kernels ROOT TARGET)
    execute_process(
        COMMAND "${Python3_EXECUTABLE}" "${ROOT}/cmake/metal_kernels.py"
                --include "${ROOT}/native/ggml/common" --to "${TARGET}" "${ROOT}/native/ggml/metal/asymkv.metal"
        COMMAND_ERROR_IS_FATAL ANY
    )
    file(GLOB HEADERS CONFIGURE_DEPENDS "${ROOT}/native/ggml/common/*.h")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
        "${ROOT}/cmake/metal_kernels.py" "${ROOT}/native/ggml/metal/asymkv.metal" ${HEADERS})
endfunction()
