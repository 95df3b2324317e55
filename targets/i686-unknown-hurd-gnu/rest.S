/* What a compiler's own libraries would have for a program, and what this one needs of it. */

/* Which of the program's parts is to be unloaded: the program itself never is. */
    .globl __dso_handle
    .hidden __dso_handle
    .data
    .p2align 2
__dso_handle:
    .long 0

/* Asked for the frames of a panic, which are not in the program: there are none. */
    .text
    .weak _Unwind_Backtrace
    .type _Unwind_Backtrace, @function
_Unwind_Backtrace:
    movl $5, %eax               /* the end of the stack */
    ret
    .weak _Unwind_GetIP
    .type _Unwind_GetIP, @function
_Unwind_GetIP:
    xorl %eax, %eax
    ret

    .section .note.GNU-stack, "", @progbits
