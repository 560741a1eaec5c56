#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// runs job(0) .. job(n_jobs - 1) on up to n_threads threads, this one among them; throws what a job threw, when all have ended
template <typename F>
void llama_asymkv_run(size_t n_threads, size_t n_jobs, F job) {
    std::atomic<size_t> next { 0 };
    std::exception_ptr  error;
    std::mutex          mutex; // of error

    const auto work = [&]() {
        for (size_t i = next++; i < n_jobs; i = next++) {
            try {
                job(i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex);
                error = std::current_exception();
            }
        }
    };

    std::vector<std::thread> threads;
    try {
        for (size_t t = 1; t < n_threads && t < n_jobs; ++t) {
            threads.emplace_back(work);
        }
    } catch (const std::exception &) {
        // fewer threads then
    }
    work();
    for (auto & thread : threads) {
        thread.join();
    }
    if (error) {
        std::rethrow_exception(error);
    }
}
