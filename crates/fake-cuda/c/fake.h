/* Shared by the C parts of the fake CUDA libraries. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A function of a library that PyTorch links. Its arguments are the library's own, and have names where
 * they are used. */
#define FAKE __attribute__((visibility("default")))
typedef void *any;

/* From the Rust part. */
unsigned long long fake_cuda_card_bytes(int device);
unsigned fake_cuda_cards(void);
unsigned long long fake_cuda_capture(unsigned long long stream);
int fake_cuda_kind(uintptr_t pointer);
int fake_cuda_device(uintptr_t pointer);
