/* tracing: tell what a tracer and a signal handler see of a program, a line for each. To be compared with the host. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { FLAGS = 0xcd5, EXTENDED = 464, HEADER = 512, UPPER = 576, ROOM = 16384 };

static _Alignas(64) unsigned char area[ROOM];

static int wait_for(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child)
        return -1;
    return status;
}

/* Start a program that is traced, and stopped before it does anything. */
static pid_t traced(void (*part)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        part();
        _exit(0);
    }
    wait_for(child);
    return child;
}

static void go_on(const char *name, pid_t child)
{
    ptrace(PTRACE_CONT, child, NULL, NULL);
    int status = wait_for(child);
    if (WIFSTOPPED(status))
        printf("%s: stopped by %d\n", name, WSTOPSIG(status));
    else
        printf("%s: ended with %x\n", name, status);
}

static void end(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void tell(const char *name, long result)
{
    printf("%s: %s\n", name, result < 0 ? strerrorname_np(errno) : "done");
}

static void nothing(void) {}

static void registers(void)
{
    struct user_regs_struct all;
    pid_t child = traced(nothing);
    errno = 0;
    long six = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), NULL);
    printf("debug register 6: %s\n", six & 0xf ? "hit" : "nothing hit");
    ptrace(PTRACE_GETREGS, child, NULL, &all);
    all.eflags |= FLAGS;
    ptrace(PTRACE_SETREGS, child, NULL, &all);
    all.eflags &= ~(unsigned long long)FLAGS;
    ptrace(PTRACE_SETREGS, child, NULL, &all);
    ptrace(PTRACE_GETREGS, child, NULL, &all);
    printf("flags that are cleared: %llx\n", all.eflags & FLAGS);
    for (int each = 0; each < 20; each++) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        wait_for(child);
    }
    ptrace(PTRACE_GETREGS, child, NULL, &all);
    printf("trap flag: %llx\n", all.eflags & 0x100);
    end(child);
}

/* Of a register of eight bytes, or of none: these once ended the whole machine. */
static void no_registers(void)
{
    pid_t child = traced(nothing);
    tell("peek in the middle", ptrace(PTRACE_PEEKUSER, child, 4, NULL));
    tell("poke in the middle", ptrace(PTRACE_POKEUSER, child, 12, NULL));
    tell("peek behind", ptrace(PTRACE_PEEKUSER, child, 10000, NULL));
    end(child);
}

static void vectors(void)
{
    float in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8];
    __asm__ volatile("vmovups %1, %%ymm5; int3; vmovups %%ymm5, %0" : "=m"(out) : "m"(in) : "xmm5");
    _exit((int)out[7]);
}

static pid_t with_vectors(struct iovec *all)
{
    pid_t child = traced(vectors);
    go_on("vectors", child);
    *all = (struct iovec){area, sizeof area};
    tell("read", ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, all));
    return child;
}

static void extended_state(void)
{
    struct iovec all;
    struct user_fpregs_struct legacy = {.mxcsr = 0x1f80, .cwd = 0x37f};
    uint64_t parts, wrong = 1ULL << 60;
    float upper = 80;

    pid_t child = with_vectors(&all);
    memcpy(&parts, area + EXTENDED, sizeof parts);
    printf("components: %s, %s\n", (parts & 7) == 7 ? "AVX" : "no AVX", parts >> 20 ? "others" : "no others");
    memcpy(area + UPPER + 5 * 16 + 12, &upper, sizeof upper);
    tell("set", ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &all));
    go_on("set", child);

    child = with_vectors(&all);
    tell("set x87 and SSE", ptrace(PTRACE_SETFPREGS, child, NULL, &legacy));
    go_on("set x87 and SSE", child);

    child = with_vectors(&all);
    memcpy(area + HEADER, &wrong, sizeof wrong);
    tell("set what there is not", ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &all));
    legacy.mxcsr = ~0U;
    tell("set wrong bits", ptrace(PTRACE_SETFPREGS, child, NULL, &legacy));
    go_on("set nothing", child);
}

static void tell_reason(int number, siginfo_t *info, void *context)
{
    const ucontext_t *state = context;
    void *here = (void *)state->uc_mcontext.gregs[REG_RIP];
    printf("signal %d: code %d, address %s\n", number, info->si_code,
           !info->si_addr ? "0" : info->si_addr == here ? "of the instruction" : "another");
    fflush(stdout);
    _exit(0);
}

static void fault(void (*part)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = tell_reason, .sa_flags = SA_SIGINFO};
        for (int each = SIGILL; each <= SIGSEGV; each++)
            sigaction(each, &action, NULL);
        /* A page fault that is none of the reasons */
        memset(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 65536);
        part();
        _exit(1);
    }
    wait_for(child);
}

static void undefined(void) { __asm__ volatile("ud2"); }
static void divide(void) { __asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; div %%ecx" ::: "rax", "rcx", "rdx"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void not_canonical(void) { *(volatile char *)0x8000000000000000UL; }
static void null(void)
{
    volatile char *volatile nowhere = (volatile char *)16;
    *nowhere;
}

int main(void)
{
    fault(undefined);
    fault(divide);
    fault(privileged);
    fault(not_canonical);
    fault(null);
    registers();
    if (__builtin_cpu_supports("avx"))
        extended_state();
    no_registers();
    return 0;
}
