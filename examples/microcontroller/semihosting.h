/* Files, text and the exit status by semihosting: a breakpoint that the debugger, or QEMU, serves.
   On a computer the same functions, by its C library.

   Source: Arm, "Semihosting for AArch32 and AArch64". */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

enum { SEMIHOSTING_READ_MODE = 1, SEMIHOSTING_WRITE_MODE = 5 }; /* as "rb" and "wb" of fopen */

#ifdef __arm__
static inline int32_t semihosting_call(int32_t operation, const void *block)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;

    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* Returns a handle, or -1. */
static inline int32_t semihosting_open(const char *name, int32_t mode)
{
    uint32_t block[3] = {(uint32_t)(uintptr_t)name, (uint32_t)mode, 0};

    while (name[block[2]])
        block[2]++;
    return semihosting_call(0x01, block);
}

/* Returns the number of bytes that were not read or written. */
static inline int32_t semihosting_read(int32_t handle, void *to, uint32_t n)
{
    const uint32_t block[3] = {(uint32_t)handle, (uint32_t)(uintptr_t)to, n};

    return semihosting_call(0x06, block);
}

static inline int32_t semihosting_write(int32_t handle, const void *from, uint32_t n)
{
    const uint32_t block[3] = {(uint32_t)handle, (uint32_t)(uintptr_t)from, n};

    return semihosting_call(0x05, block);
}

static inline void semihosting_print(const char *text)
{
    semihosting_call(0x04, text);
}

static inline void semihosting_exit(int status)
{
    const uint32_t block[2] = {0x20026u /* the application ended */, (uint32_t)status};

    semihosting_call(0x20, block);
    for (;;)
        ;
}

#else
#include <stdio.h>

static FILE *semihosting_files[4];

static inline int32_t semihosting_open(const char *name, int32_t mode)
{
    int32_t handle = 0;

    while (semihosting_files[handle])
        handle++;
    semihosting_files[handle] = fopen(name, mode == SEMIHOSTING_READ_MODE ? "rb" : "wb");
    return semihosting_files[handle] ? handle : -1;
}

static inline int32_t semihosting_read(int32_t handle, void *to, uint32_t n)
{
    return (int32_t)(n - fread(to, 1, n, semihosting_files[handle]));
}

static inline int32_t semihosting_write(int32_t handle, const void *from, uint32_t n)
{
    return (int32_t)(n - fwrite(from, 1, n, semihosting_files[handle]));
}

static inline void semihosting_print(const char *text)
{
    fputs(text, stdout);
}

#endif

#endif
