// What every source here relies on. A compiler command may ask for more speed than that ($CXX with arguments): then nothing is built.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "qfx computes exactly: compile without -Ofast, -ffast-math and -ffinite-math-only"
#endif
