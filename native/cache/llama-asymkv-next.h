#pragma once

#include "asymkv.h"

#include <string>

// what the C API leaves for the next context of this thread, and the last error of this thread

// null: nobody asked
const asymkv_params * llama_asymkv_next();

// taken: by the cache that was made from it
void llama_asymkv_next_clear();

int llama_asymkv_fail(int status, const std::string & sentence);
