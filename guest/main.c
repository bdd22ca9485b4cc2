/* The guest agent: PID 1 of every machine. Boots it as the host asks and relays its commands. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "builtin.h"
#include "channel.h"
#include "checkpoint.h"
#include "command.h"
#include "failure.h"
#include "files.h"
#include "loop.h"
#include "machine.h"
#include "network.h"
#include "user.h"

enum { PATIENCE_MILLISECONDS = 10000, PROTOCOL_VERSION = 1, CAN_FREEZE = 1 };

static bool test_mode;
bool agent_is_test(void)
{
    return test_mode;
}

static _Noreturn void power_off(void)
{
    if (test_mode)
        _exit(0);
    for (;;) {
        reboot(RB_POWER_OFF);
        pause();
    }
}

static uint64_t memory_total(void)
{
    struct sysinfo info;
    return sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 0;
}

_Noreturn void agent_power_off(bool say_bye)
{
    command_kill_all();
    int error = machine_sync_shares();
    int disk_error = machine_close_root();
    error = error != 0 ? error : disk_error;
    if (say_bye) {
        struct record_writer *records = channel_begin_records();
        record_put_number(records, 12, memory_total());
        record_put_number(records, 13, (uint64_t)error);
        channel_send_records(FRAME_BYE, 0);
    }
    channel_drain(PATIENCE_MILLISECONDS);
    power_off();
}

_Noreturn void agent_fail(const char *stage, int error, const char *text)
{
    fprintf(stderr, "apppot: %s: %s%s%s\n", stage, text, error != 0 ? ": " : "",
            error != 0 ? strerror(error) : "");
    struct record_writer *records = channel_begin_records();
    record_put_text(records, 2, stage, strlen(stage));
    record_put_number(records, 3, (uint64_t)error);
    record_put_text(records, 4, text, strlen(text));
    channel_send_records(FRAME_FAILED, 0);
    agent_power_off(false);
}

static void send_hello(void)
{
    struct utsname name;
    struct record_writer *records = channel_begin_records();
    uint64_t now = get_u64(records->bytes + RECORD_HEADER);
    records->used = 0;
    record_put_number(records, 1, PROTOCOL_VERSION);
    record_put_text(records, 2, AGENT_VERSION, sizeof AGENT_VERSION - 1);
    if (uname(&name) == 0)
        record_put_text(records, 3, name.release, strlen(name.release));
    record_put_number(records, 4, now);
    record_put_number(records, 5, CAN_FREEZE);
    channel_send_magic();
    channel_send_records(FRAME_HELLO, 0);
}

static void set_clock(uint64_t nanoseconds)
{
    int error = nanoseconds == 0 ? 0 : checkpoint_set_clock(nanoseconds);
    if (error != 0)
        channel_notice(0, "the machine's clock cannot be set: %s", strerror(error));
}

void agent_build_machine(uint8_t *bytes, size_t size)
{
    static struct machine_spec spec;
    const char *why = machine_decode(bytes, size, &spec);
    if (why != NULL)
        agent_fail("protocol", 0, why);
    if (!test_mode) {
        set_clock(spec.clock);
        if (!machine_make_root(&spec) || !user_provide(&spec) || !machine_mount_shares(&spec) ||
            !network_configure(&spec)) {
            const struct failure *failure = last_failure();
            agent_fail(failure->stage, failure->error, failure->text);
        }
        machine_seal();
    }
    struct record_writer *records = channel_begin_records();
    record_put_number(records, 12, memory_total());
    channel_send_records(FRAME_READY, 0);
}

static void open_standard_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

static void raise_limits(void)
{
    const rlim_t soft = 1024, hard = 1048576, stack = 8u << 20;
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){soft, hard});
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, RLIM_INFINITY});
    setrlimit(RLIMIT_STACK, &(struct rlimit){stack, RLIM_INFINITY});
}

/* The device named by `apppot.channel=` on the kernel's command line. */
static const char *channel_device(void)
{
    static char line[4096];
    static const char name[] = "apppot.channel=";
    read_small_file("/proc/cmdline", line, sizeof line);
    for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n"))
        if (strncmp(word, name, sizeof name - 1) == 0)
            return word + sizeof name - 1;
    return "/dev/hostpipe";
}

/* Starts a program of the initramfs that does the host's part, for a machine that has none. */
static int start_keeper(const char *path)
{
    enum { KEEPERS = 3 };
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        if (pair[1] == KEEPERS)
            fcntl(KEEPERS, F_SETFD, 0);
        else
            dup2(pair[1], KEEPERS);
        execl(path, path, (char *)NULL);
        fprintf(stderr, "apppot: cannot start %s: %s\n", path, strerror(errno));
        _exit(1);
    }
    close(pair[1]);
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    return child < 0 ? -1 : pair[0];
}

static int open_channel(const char *device)
{
    static const char program[] = "exec:";
    if (strncmp(device, program, sizeof program - 1) == 0)
        return start_keeper(device + sizeof program - 1);
    /* The kernel learns of a virtual port from the host, which takes it a moment. */
    enum { STEPS = 500, STEP_NANOSECONDS = 10000000 };
    int fd = channel_open(device);
    for (int i = 0; fd < 0 && errno == ENOENT && i < STEPS; i++) {
        nanosleep(&(struct timespec){.tv_nsec = STEP_NANOSECONDS}, NULL);
        fd = channel_open(device);
    }
    /* Nothing in the machine is to write there by accident. */
    if (fd >= 0)
        unlink(device);
    return fd;
}

static void begin_machine(void)
{
    machine_mount_early();
    checkpoint_open();
    open_standard_descriptors();
    raise_limits();
    set_kernel_value("/proc/self/oom_score_adj", "-1000");
    const char *device = channel_device();
    int fd = open_channel(device);
    if (fd < 0) {
        fprintf(stderr, "apppot: cannot open the channel %s: %s\n", device, strerror(errno));
        power_off();
    }
    channel_use(fd);
}

static bool begin_test(int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[1], "--test") != 0)
        return false;
    test_mode = true;
    int fd = atoi(argv[2]);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) != 0)
        return false;
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    channel_use(fd);
    return true;
}

int main(int argc, char **argv)
{
    if (getpid() == 1) {
        begin_machine();
    } else if (argc > 1 && argv[1][0] != '-') {
        return builtin_inside(argv + 1);
    } else if (!begin_test(argc, argv)) {
        fprintf(stderr, "usage: agent --test DESCRIPTOR | BUILTIN... (otherwise it has to be process 1)\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &child, NULL);
    int children = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    if (children < 0)
        agent_fail("protocol", errno, "make a descriptor for signals");
    send_hello();
    if (!channel_flush())
        agent_power_off(false);
    loop_serve(children);
}
