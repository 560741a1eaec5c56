#pragma once

#include "asymkv.h"

#include <string>

struct llama_model;

// one sentence if this model's cache cannot be merged with these parameters, else empty
std::string llama_asymkv_model_problem(const llama_model & model);
