# what is inside of the wheel, for tools that look for known holes: .dist-info/sboms/asymkv-gguf.cdx.json (PEP 770)

set(ASYMKV_SBOM "${CMAKE_BINARY_DIR}/asymkv-gguf.cdx.json")
set(ASYMKV_SBOM_GGML "")
if (ASYMKV_BUNDLE_GGML)
    set(ASYMKV_SBOM_GGML ${ASYMKV_GGML_TARGETS})
endif()

execute_process(
    COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/write_sbom.py"
            --root    "${CMAKE_CURRENT_SOURCE_DIR}"
            --tree    "${ASYMKV_LLAMA_DIR}"
            --ggml    "${ASYMKV_SBOM_GGML}"
            --output  "${ASYMKV_SBOM}"
    RESULT_VARIABLE ASYMKV_RESULT
    ERROR_VARIABLE  ASYMKV_ERROR
    ERROR_STRIP_TRAILING_WHITESPACE
)
if (NOT ASYMKV_RESULT EQUAL 0)
    message(FATAL_ERROR "asymkv: ${ASYMKV_ERROR}")
endif()

if (DEFINED SKBUILD_METADATA_DIR) # pip builds a wheel; elsewhere there is no metadata to put it in
    install(FILES "${ASYMKV_SBOM}" DESTINATION "${SKBUILD_METADATA_DIR}/sboms" COMPONENT asymkv)
endif()
