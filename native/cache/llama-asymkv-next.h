#pragma once

#include "asymkv.h"

#include <string>

// what the C API leaves for the next context of this thread, and the last error of this thread

// null: nobody asked
const asymkv_params * llama_asymkv_next();

// taken: by the cache that was made from it
void llama_asymkv_next_clear();

class llama_memory_i;

// whether a part of this memory is a merged cache, which cannot do that; says so
bool llama_asymkv_refuses(llama_memory_i * memory, const char * what);

// throws where a merged cache and what is beside it, of a model with a sliding window or recurrent layers, are not of one text
void llama_asymkv_check_restored(llama_memory_i * memory);

// nodes that a merged cache in this memory may add to a graph, beyond the few that every graph has room for
uint32_t llama_asymkv_n_nodes(llama_memory_i * memory);

int llama_asymkv_fail(int status, const std::string & sentence);
