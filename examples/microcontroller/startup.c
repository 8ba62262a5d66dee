/* Start of a Cortex-M4F or M7 without an operating system: the vector table and what runs before
   main. */
#include <stdint.h>

#include "semihosting.h"

extern uint32_t link_stack_top[], link_data_source[], link_data[], link_data_end[];
extern uint32_t link_bss[], link_bss_end[];
int main(void);
void reset(void);
void fault(void);

void reset(void)
{
    volatile uint32_t *const coprocessors = (volatile uint32_t *)0xE000ED88u;
    const uint32_t *from = link_data_source;
    uint32_t *to;

    *coprocessors |= 0xFu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (to = link_data; to < link_data_end;)
        *to++ = *from++;
    for (to = link_bss; to < link_bss_end;)
        *to++ = 0;
    semihosting_exit(main());
}

void fault(void)
{
    semihosting_print("a fault of the processor\n");
    semihosting_exit(1);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    link_stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};
