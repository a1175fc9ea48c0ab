/* The smallest commands to run in a container, without a C library: true ends with status 0, and with -DWRITE it writes
 * one byte first, so that the time from a start to its first instruction can be seen from outside.
 *
 *     cc -nostdlib -static -s -Wl,-N,--build-id=none -o true true.S
 */
    .globl _start
_start:
#if defined(__x86_64__)
#ifdef WRITE
    mov $1, %edi
    lea byte(%rip), %rsi
    mov $1, %edx
    mov $1, %eax
    syscall
#endif
    xor %edi, %edi
    mov $60, %eax
    syscall
#elif defined(__aarch64__)
#ifdef WRITE
    mov x0, #1
    adr x1, byte
    mov x2, #1
    mov x8, #64
    svc #0
#endif
    mov x0, #0
    mov x8, #93
    svc #0
#else
#error "tests/peers/true.S: this machine's system calls are not known here"
#endif

#ifdef WRITE
byte:
    .ascii "x"
#endif
    .section .note.GNU-stack, "", %progbits
