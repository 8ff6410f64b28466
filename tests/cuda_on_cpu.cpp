#include "cuda_on_cpu.hpp"

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr auto UNORDERED = std::memory_order_relaxed;

// Threads that wait for each other, but promise nothing of what they wrote before: what a shuffle
// does on a GPU. A barrier of the library would hide races.
struct Meeting {
    std::atomic<int> here = 0, round = 0;

    void meet(int size) {
        const int before = round.load(UNORDERED);
        if (here.fetch_add(1, UNORDERED) + 1 == size) {
            here.store(0, UNORDERED);
            round.store(before + 1, UNORDERED);
        } else {
            while (round.load(UNORDERED) == before) std::this_thread::yield();
        }
    }
};

thread_local int this_thread;
std::unique_ptr<std::barrier<>> everyone;
std::vector<Meeting> teams[6];  // teams[k] are those of 2^k neighbours
std::vector<std::atomic<unsigned long long>> said;

}  // namespace

int thread_number() { return this_thread; }

void barrier(unsigned*) { everyone->arrive_and_wait(); }

unsigned long long exchange(unsigned long long value, int bit, int team) {
    Meeting& mine = teams[__builtin_ctz(team)][this_thread / team];
    said[this_thread].store(value, UNORDERED);
    mine.meet(team);
    const auto heard = said[this_thread ^ bit].load(UNORDERED);
    mine.meet(team);
    return heard;
}

void on_every_thread(int n, void (*body)(void**, int), void** arguments, int n_steps) {
    everyone = std::make_unique<std::barrier<>>(n);
    for (int k = 1; k < 6; ++k) teams[k] = std::vector<Meeting>(n >> k);
    said = std::vector<std::atomic<unsigned long long>>(n);
    std::vector<std::thread> threads;
    for (int i = 0; i < n; ++i)
        threads.emplace_back([=] { this_thread = i; body(arguments, n_steps); });
    for (auto& one : threads) one.join();
}
