/* Runs on the host: takes away from a program what it does not need, then becomes it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "landlock.h"

enum { RULES_MAX = 512, CPUS_MAX = 8192, WORD_BITS = CHAR_BIT * sizeof(unsigned long) };
enum { STATUS_FAILED = 125 };

struct rule {
    enum access access;
    const char *path;
    int fd;
};

static struct {
    long parent;
    int folder;
    bool landlock, landlock_required, no_tcp, no_aslr;
    const char *oom_score;
    bool has_cpus, has_nice;
    int nice;
    unsigned long cpus[CPUS_MAX / WORD_BITS];
    struct rule rules[RULES_MAX];
    size_t rule_count;
    char **program;
} options = {.folder = -1};

static _Noreturn void give_up(int status, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static _Noreturn void give_up(int status, int error, const char *format, ...)
{
    char text[1024];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    fprintf(stderr, "confine: %s%s%s\n", text, error != 0 ? ": " : "",
            error != 0 ? strerror(error) : "");
    _exit(status);
}

static long number(const char *text, long least, long most, const char *option)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || value < least || value > most)
        give_up(STATUS_FAILED, 0, "%s: '%s' is not a number from %ld to %ld", option, text, least,
                most);
    return value;
}

/* A list like 0,3,5 or 0-3,8. */
static void read_cpus(const char *text)
{
    const char *at = text;
    for (;;) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        bool good = end != at;
        if (good && *end == '-') {
            at = end + 1;
            last = strtol(at, &end, 10);
            good = end != at;
        }
        if (!good || first < 0 || last < first || last >= CPUS_MAX || (*end != 0 && *end != ','))
            give_up(STATUS_FAILED, 0, "--cpus: '%s' is not a list of CPUs", text);
        for (long cpu = first; cpu <= last; cpu++)
            options.cpus[(size_t)cpu / WORD_BITS] |= 1ul << ((size_t)cpu % WORD_BITS);
        if (*end == 0)
            break;
        at = end + 1;
    }
    options.has_cpus = true;
}

static void add_rule(enum access access, const char *path, const char *fd, const char *option)
{
    if (options.rule_count == RULES_MAX)
        give_up(STATUS_FAILED, 0, "%s: more than %d rules", option, RULES_MAX);
    options.rules[options.rule_count++] = (struct rule){
        .access = access,
        .path = path,
        .fd = fd != NULL ? (int)number(fd, 0, INT_MAX, option) : -1,
    };
}

static bool read_flag(const char *option)
{
    if (strcmp(option, "--landlock") == 0)
        options.landlock = true;
    else if (strcmp(option, "--landlock=require") == 0)
        options.landlock = options.landlock_required = true;
    else if (strcmp(option, "--no-tcp") == 0)
        options.no_tcp = true;
    else if (strcmp(option, "--no-aslr") == 0)
        options.no_aslr = true;
    else
        return false;
    return true;
}

static bool read_rule(const char *option, const char *value)
{
    static const struct {
        const char *name;
        enum access access;
        bool path;
    } kinds[] = {
        {"--ro", ACCESS_READ, true},      {"--ro-fd", ACCESS_READ, false},
        {"--rw", ACCESS_WRITE, true},     {"--rw-fd", ACCESS_WRITE, false},
        {"--rx", ACCESS_EXECUTE, true},   {"--rx-fd", ACCESS_EXECUTE, false},
        {"--list-fd", ACCESS_LIST, false},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(option, kinds[i].name) == 0) {
            add_rule(kinds[i].access, kinds[i].path ? value : NULL, kinds[i].path ? NULL : value,
                     option);
            return true;
        }
    return false;
}

static void read_option(const char *option, const char *value)
{
    if (strcmp(option, "--parent") == 0)
        options.parent = number(value, 1, INT_MAX, option);
    else if (strcmp(option, "--chdir-fd") == 0)
        options.folder = (int)number(value, 0, INT_MAX, option);
    else if (strcmp(option, "--cpus") == 0)
        read_cpus(value);
    else if (strcmp(option, "--oom-score") == 0)
        options.oom_score = (number(value, -1000, 1000, option), value);
    else if (strcmp(option, "--nice") == 0) {
        options.nice = (int)number(value, -20, 19, option);
        options.has_nice = true;
    } else if (!read_rule(option, value))
        give_up(STATUS_FAILED, 0, "unknown option %s", option);
}

static void read_options(int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (read_flag(argv[i]))
            continue;
        if (i + 1 >= argc)
            give_up(STATUS_FAILED, 0, "%s: unknown, or its value is missing", argv[i]);
        read_option(argv[i], argv[i + 1]);
        i++;
    }
    if (i + 1 >= argc)
        give_up(STATUS_FAILED, 0, "usage: confine [OPTION]... -- PROGRAM [ARGUMENT]...");
    options.program = argv + i + 1;
}

/* From here on the launcher's death is ours; one that happened before shows as another parent. */
static void bind_to_parent(void)
{
    if (options.parent == 0)
        return;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        give_up(STATUS_FAILED, errno, "ask for a signal when the parent ends");
    if (getppid() != options.parent)
        _exit(STATUS_FAILED);
}

static void set_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, options.oom_score, strlen(options.oom_score)) < 0)
        give_up(STATUS_FAILED, errno, "set the out-of-memory score %s", options.oom_score);
    close(fd);
}

static void set_limits(void)
{
    struct rlimit files;
    const struct rlimit none = {0, 0};
    /* What a guest's kernel makes in shared folders has been masked by the guest's programs. */
    umask(0);
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        give_up(STATUS_FAILED, errno, "forbid core dumps");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (options.has_nice && setpriority(PRIO_PROCESS, 0, options.nice) != 0)
        give_up(STATUS_FAILED, errno, "set the priority %d", options.nice);
    if (options.oom_score != NULL)
        set_oom_score();
    if (options.has_cpus &&
        syscall(SYS_sched_setaffinity, 0, sizeof options.cpus, options.cpus) != 0)
        give_up(STATUS_FAILED, errno, "keep to the given CPUs");
    if (options.no_aslr && personality((unsigned long)personality(0xffffffff) | ADDR_NO_RANDOMIZE) < 0)
        give_up(STATUS_FAILED, errno, "switch off address randomisation");
}

static void apply_rule(int ruleset, int version, const struct rule *rule)
{
    int fd = rule->fd;
    if (rule->path != NULL) {
        fd = open(rule->path, O_PATH | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            return;
        if (fd < 0)
            give_up(STATUS_FAILED, errno, "open %s", rule->path);
    }
    if (landlock_allow(ruleset, version, fd, rule->access) != 0) {
        if (rule->path != NULL)
            give_up(STATUS_FAILED, errno, "allow access to %s", rule->path);
        give_up(STATUS_FAILED, errno, "allow access to descriptor %d", fd);
    }
    if (rule->path != NULL)
        close(fd);
}

static void restrict_access(int program)
{
    int version = landlock_version();
    if (version == 0) {
        if (options.landlock_required)
            give_up(STATUS_FAILED, errno, "this kernel offers no Landlock");
        return;
    }
    int ruleset = landlock_make(version, options.no_tcp);
    if (ruleset < 0)
        give_up(STATUS_FAILED, errno, "make a Landlock ruleset");
    for (size_t i = 0; i < options.rule_count; i++)
        apply_rule(ruleset, version, &options.rules[i]);
    if (landlock_allow(ruleset, version, program, ACCESS_EXECUTE) != 0)
        give_up(STATUS_FAILED, errno, "allow %s to be executed", options.program[0]);
    if (landlock_enforce(ruleset) != 0)
        give_up(STATUS_FAILED, errno, "enforce the Landlock ruleset");
    close(ruleset);
}

static int probe(const char *what)
{
    if (strcmp(what, "landlock") != 0)
        give_up(STATUS_FAILED, 0, "cannot probe '%s'", what);
    printf("%d\n", landlock_version());
    return 0;
}

int main(int argc, char **argv)
{
    extern char **environ;
    if (argc == 3 && strcmp(argv[1], "--probe") == 0)
        return probe(argv[2]);
    read_options(argc, argv);
    bind_to_parent();
    int program = open(options.program[0], O_PATH | O_CLOEXEC);
    if (program < 0)
        give_up(STATUS_FAILED, errno, "open %s", options.program[0]);
    if (options.folder >= 0 && fchdir(options.folder) != 0)
        give_up(STATUS_FAILED, errno, "change to descriptor %d", options.folder);
    set_limits();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        give_up(STATUS_FAILED, errno, "give up gaining privileges");
    if (options.landlock)
        restrict_access(program);
    syscall(SYS_execveat, program, "", options.program, environ, AT_EMPTY_PATH);
    if (errno == ENOENT) /* a script: its interpreter could not open what is closed by then */
        execve(options.program[0], options.program, environ);
    give_up(STATUS_FAILED, errno, "execute %s", options.program[0]);
}
