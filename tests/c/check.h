/* The check of the tests in C. A condition that does not hold ends the program and is printed. */
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
