/* natively: tell how the kernel treats what C libraries do not do, a line for each. To be compared with the host. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the kernel takes, which sigaction(3) hides: no SA_RESTORER, no restorer. */
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static void end(int number)
{
    _exit(number);
}

static void end_with_reason(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    _exit(info->si_code == SEGV_ACCERR ? 100 : 101);
}

/* Run a part in a process of its own and tell how that ends. */
static void tell(const char *name, int (*part)(void))
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(part());
    if (child < 0 || waitpid(child, &status, 0) != child)
        printf("%s: not run\n", name);
    else if (WIFSIGNALED(status))
        printf("%s: signal %d\n", name, WTERMSIG(status));
    else
        printf("%s: status %d\n", name, WEXITSTATUS(status));
}

static int no_restorer(void)
{
    struct kernel_action action = {.handler = end};
    if (syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, sizeof action.mask))
        return 1;
    raise(SIGUSR1);
    return 2;
}

static int no_restorer_but_for_the_consequence(void)
{
    signal(SIGSEGV, end);
    return no_restorer();
}

static int no_restorer_for_a_fault(void)
{
    struct kernel_action action = {.handler = end};
    if (syscall(SYS_rt_sigaction, SIGSEGV, &action, NULL, sizeof action.mask))
        return 1;
    int *volatile nowhere = NULL;
    *nowhere = 1;
    return 2;
}

__attribute__((noinline)) static int execute(void *memory)
{
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* return 42 */
    struct sigaction action = {.sa_sigaction = end_with_reason, .sa_flags = SA_SIGINFO};
    int (*function)(void);

    sigaction(SIGSEGV, &action, NULL);
    memcpy(memory, code, sizeof code);
    memcpy(&function, &memory, sizeof function);
    int result = function();
    return result ^ (*(volatile char *)memory == 0);
}

static int execute_heap(void)
{
    return execute(sbrk(4096));
}

static int execute_heap_of_another_personality(void)
{
    if (personality(READ_IMPLIES_EXEC) == -1)
        return 1;
    return execute((char *)sbrk(1 << 20) + (1 << 19));
}

static int execute_data(void)
{
    static char data[4096];
    return execute(data);
}

static int execute_stack(void)
{
    char data[64];
    return execute(data);
}

static int execute_mapping(void)
{
    return execute(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static int execute_where_allowed(void)
{
    int all = PROT_READ | PROT_WRITE | PROT_EXEC;
    return execute(mmap(NULL, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static int execute_heap_when_allowed(void)
{
    char *heap = sbrk(3 * 4096);
    heap += -(uintptr_t)heap % 4096;
    if (mprotect(heap, 4096, PROT_READ | PROT_WRITE | PROT_EXEC))
        return 1;
    return execute(heap);
}

static void heap_mode(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        char *mode = strchr(line, ' ');
        if (mode && strstr(line, "[heap]"))
            printf("heap: %.4s\n", mode + 1);
    }
}

int main(void)
{
    if (sbrk(1 << 16) == (void *)-1)
        return 1;
    heap_mode();
    tell("no restorer", no_restorer);
    tell("no restorer, SIGSEGV caught", no_restorer_but_for_the_consequence);
    tell("no restorer, a fault", no_restorer_for_a_fault);
    tell("execute heap", execute_heap);
    tell("execute heap, READ_IMPLIES_EXEC", execute_heap_of_another_personality);
    tell("execute data", execute_data);
    tell("execute stack", execute_stack);
    tell("execute mapping", execute_mapping);
    tell("execute mapping that may be", execute_where_allowed);
    tell("execute heap that may be", execute_heap_when_allowed);
    return 0;
}
