# comparisons and roots that do not look at floating-point flags or errno: only so does GCC vectorize the planner's kernels

function(asymkv_kernel_options NATIVE TARGET)
    if (NOT MSVC)
        set_source_files_properties("${NATIVE}/plan/asymkv-kernels.cpp" TARGET_DIRECTORY ${TARGET}
            PROPERTIES COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math")
    endif()
endfunction()
