/* What the tests in C check by: what does not hold ends the program, and says where and why. */
#include <giant_kitten.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, gk_last_error()); \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)
