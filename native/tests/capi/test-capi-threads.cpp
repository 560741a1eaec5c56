// two contexts of one model in two threads, each of which compresses, is saved and restored: each gets what one alone gets.
// ThreadSanitizer sees what they share (scripts/sanitize.sh capi-thread)
//
//     test-capi-threads MODEL

#include "capi.h"

#include <algorithm>
#include <thread>

using namespace capi;

namespace {

struct outcome {
    std::vector<float> logits;
    bytes              state;
    std::string        error;

    bool operator==(const outcome & o) const { return logits == o.logits && state == o.state && error == o.error; }
};

// a merged context, beside it a stock one: the wish for a merged cache is the thread's own
void work(llama_model * model, uint32_t seed, outcome * out) {
    asymkv_params params = small_params();
    params.seed     = seed;
    params.per_head = seed % 2;

    llama_context_params settings = small_context();
    settings.n_threads       = 2; // ggml's threads, and those that compress
    settings.n_threads_batch = 2;

    CHECK(asymkv_set_next(&params) == ASYMKV_OK);
    std::this_thread::yield();
    context_ptr ctx(llama_init_from_model(model, settings));
    context_ptr stock(llama_init_from_model(model, settings));
    CHECK(ctx && stock);

    asymkv_stats stats = {};
    stats.size = sizeof(stats);
    CHECK(asymkv_get_stats(stock.get(), &stats) == ASYMKV_ERR_NO_CACHE);
    CHECK(asymkv_compress(ctx.get(), 1 + seed) == ASYMKV_ERR_PARAMS);
    out->error = asymkv_last_error();

    const tokens text = random_text(ctx.get(), 420, seed);
    read(ctx.get(), text);
    read(stock.get(), random_text(ctx.get(), 100, seed));
    CHECK(stats_of(ctx.get()).n_compressions >= 2);
    CHECK(is_sound(ctx.get()));

    out->state = state_of(ctx.get());
    const tokens more = random_text(ctx.get(), 160, seed + 1);
    out->logits = read_on(ctx.get(), more);
    CHECK(restore(ctx.get(), out->state) == out->state.size());
    CHECK(read_on(ctx.get(), more) == out->logits);
    CHECK(last_error_has(out->error.c_str()));
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    be_quiet();
    const model_ptr model = open_model(argv[1]);

    outcome together[2], alone[2];

    // before anything else has run: what is made at the first use is made here
    std::thread a(work, model.get(), 1, &together[0]);
    std::thread b(work, model.get(), 2, &together[1]);
    a.join();
    b.join();

    for (uint32_t i = 0; i < 2; ++i) {
        work(model.get(), 1 + i, &alone[i]);
        CHECK(alone[i] == together[i]);
    }
    CHECK(!(alone[0] == alone[1]));

    printf("ok two contexts in two threads do what each does alone\n");
    return 0;
}
