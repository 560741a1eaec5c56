# -DASYMKV_SANITIZE=address,undefined, or thread: of all that is compiled here, llama.cpp and ggml as our own (scripts/sanitize.sh)

set(ASYMKV_SANITIZE "" CACHE STRING "sanitizers of all that is compiled, as -fsanitize takes them; for tests only")

if (ASYMKV_SANITIZE)
    add_compile_options("-fsanitize=${ASYMKV_SANITIZE}" -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
    add_link_options("-fsanitize=${ASYMKV_SANITIZE}")
    # ggml's tables hold its kernels as functions of void pointers, which they are not: undefined, and harmless on every ABI it runs on
    if (CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND ASYMKV_SANITIZE MATCHES "undefined")
        add_compile_options(-fno-sanitize=function)
    endif()
endif()
