// What bp_xp.engines._kernel.PRELUDE is to CUDA, for a CPU: each thread of a kernel is a thread of
// the processor, so that a barrier that is missing is a race, which a checker can see.
#pragma once
#include <cmath>

using std::atan, std::cbrt, std::cos, std::cosh, std::exp, std::exp2, std::expm1, std::fabs;
using std::log, std::log1p, std::log2, std::pow, std::sin, std::sinh, std::sqrt, std::tan, std::tanh;

#define KERNEL static void

int thread_number();
void barrier(unsigned*);
double exchange(double value, int bit, int team);

template <int team, class Number>
Number of_neighbour(Number value, int bit) {
    return static_cast<Number>(exchange(value, bit, team));  // every dtype of a kernel fits
}

void on_every_thread(int threads, void (*body)(void**, int), void** arguments, int n_steps);
