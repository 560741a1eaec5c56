#pragma once

// the cases that patches/0014-test-backend-ops.patch adds to upstream's tests/test-backend-ops.cpp

#include "attn-cases.h"
#include "compress-cases.h"

static void add_asymkv_cases(std::vector<std::unique_ptr<test_case>> & cases) {
    add_asymkv_attn_cases(cases);
    add_asymkv_compress_cases(cases);
}
