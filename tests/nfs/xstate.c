/* A library to be preloaded by User Mode Linux 6.1. That has room for the state of a processor up to AVX-512, and writes it back
   with a length that Linux refuses on a processor with more, such as AMX. Here the rest of that state is kept as it is. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long write_state(long pid, const struct iovec *given)
{
    static char state[1 << 16];
    struct iovec whole = {state, sizeof state};

    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    memcpy(state, given->iov_base, given->iov_len < whole.iov_len ? given->iov_len : whole.iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

/* As that of the C library, otherwise. */
long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
        return write_state(pid, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        /* Linux writes the word, the C library returns it. */
        long word, failed = syscall(SYS_ptrace, request, pid, address, &word);
        errno = failed ? errno : 0;
        return failed ? -1 : word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
