/* Linked in where a folder of the system's libraries has no libgcc_eh: what the C library wants of it to end threads by force,
   which nobody does here. */
    .text
    .irp name, _Unwind_Resume, _Unwind_ForcedUnwind, _Unwind_DeleteException, _Unwind_GetCFA, _Unwind_Find_FDE, \
        __gcc_personality_v0
    .weak \name
    .type \name, @function
\name:
    .endr
    ud2

    .section .note.GNU-stack, "", @progbits
