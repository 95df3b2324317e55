/* Where a program begins: the loader has left the number of its arguments, these and the environment on the stack, and in %edx
   what is to be called at the end. It may lie anywhere. */
    .globl _start
    .type _start, @function
_start:
    xorl %ebp, %ebp             /* the outermost frame */
    popl %esi
    movl %esp, %ecx
    andl $-16, %esp
    pushl %eax                  /* fills up to a multiple of 16 */
    pushl %esp
    pushl %edx
    call .Lhere
.Lhere:
    popl %ebx
.Lthere:
    addl $_GLOBAL_OFFSET_TABLE_+(.Lthere-.Lhere), %ebx
    pushl $0                    /* the library finds by itself what is to be called first and last */
    pushl $0
    pushl %ecx
    pushl %esi
    leal main@GOTOFF(%ebx), %eax
    pushl %eax
    call __libc_start_main@PLT
    hlt
    .size _start, . - _start

/* Which system it is for: 1, the Hurd, from its first version on. */
    .section .note.ABI-tag, "a", @note
    .p2align 2
    .long 4, 16, 1
    .asciz "GNU"
    .long 1, 0, 0, 0

    .section .note.GNU-stack, "", @progbits
