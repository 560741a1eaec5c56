#pragma once

#include "asymkv.h"

#include <string>

namespace asymkv {

asymkv_params params_default();

// one sentence if a parameter is out of range, else empty
std::string params_problem(const asymkv_params & params);

// one sentence if the arrays of a group cannot be right, else empty
std::string group_problem(const asymkv_group & group);

} // namespace asymkv
