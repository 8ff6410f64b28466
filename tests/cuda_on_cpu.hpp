// What bp_xp.engines.kernel.PRELUDE is to CUDA, for a CPU: each thread of a kernel is a thread of
// the processor, so that a barrier that is missing is a race, which a checker can see.
#pragma once
#include <cmath>
#include <cstring>

using std::atan, std::cbrt, std::cos, std::cosh, std::exp, std::exp2, std::expm1, std::fabs;
using std::log, std::log1p, std::log2, std::pow, std::sin, std::sinh, std::sqrt, std::tan, std::tanh;

#define KERNEL static void

int thread_number();
void barrier(unsigned*);
unsigned long long exchange(unsigned long long value, int bit, int team);

template <int team, class Number>
Number of_neighbour(Number value, int bit) {
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, bit, team);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

void on_every_thread(int threads, void (*body)(void**, int), void** arguments, int n_steps);
