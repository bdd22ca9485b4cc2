/* A machine that stands still to be saved, and goes on later, here or elsewhere. */
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "channel.h"
#include "files.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    ENTROPY_SIZE = 64,
    SWEEP_STEP = 4 << 20,
    SWEEP_SECONDS = 3,
    /* Of free memory, this part is left to the commands, which go on meanwhile. */
    SWEEP_SPARES = 8,
};

static bool frozen;
static int pool = -1;

void checkpoint_open(void)
{
    pool = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
}

bool checkpoint_is_frozen(void)
{
    return frozen;
}

static uint64_t free_memory(uint64_t *total)
{
    struct sysinfo info;
    if (sysinfo(&info) != 0)
        return *total = 0;
    *total = (uint64_t)info.totalram * info.mem_unit;
    return (uint64_t)info.freeram * info.mem_unit;
}

/* How much of the free memory has been used before: what the host holds for the machine, without
 * what is in use, and some more. */
static uint64_t used_before(uint64_t resident)
{
    uint64_t total, free = free_memory(&total);
    uint64_t most = free - free / SWEEP_SPARES;
    if (resident <= total - free)
        return 0;
    uint64_t wanted = resident - (total - free);
    wanted += wanted / SWEEP_SPARES;
    return wanted < most ? wanted : most;
}

/* Takes memory, which the kernel clears for that, and gives it back by ending. The kernel hands out
 * first what was used last. If memory gets short meanwhile, this is the process to kill. */
static _Noreturn void sweep(uint64_t size)
{
    set_kernel_value("/proc/self/oom_score_adj", "1000");
    alarm(SWEEP_SECONDS);
    uint8_t *place = mmap(NULL, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
        _exit(1);
    uint64_t total, free = free_memory(&total);
    /* Large pieces are quicker to clear, but come first from what was never used. */
    madvise(place, size, size > free / 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    for (uint64_t at = 0; at < size; at += SWEEP_STEP) {
        uint64_t piece = size - at < SWEEP_STEP ? size - at : SWEEP_STEP;
        free = free_memory(&total);
        if (free < total / SWEEP_SPARES / 2 ||
            madvise(place + at, piece, MADV_POPULATE_WRITE) != 0)
            break;
    }
    _exit(0);
}

/* What is free and all zeros takes no room in what is saved. Returns how much was swept. */
static uint64_t make_small(uint64_t resident)
{
    set_kernel_value("/proc/sys/vm/drop_caches", "3");
    uint64_t size = used_before(resident);
    if (size == 0)
        return 0;
    pid_t child = fork();
    if (child == 0)
        sweep(size);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    return size;
}

const char *checkpoint_freeze(const struct frame *frame)
{
    if (frozen)
        return "the machine is frozen already";
    uint64_t swept = agent_is_test() ? 0 : make_small(get_u64(frame->payload));
    frozen = true;
    struct record_writer *records = channel_begin_records();
    record_put_number(records, 14, swept);
    channel_send_records(FRAME_FROZEN, 0);
    return NULL;
}

int checkpoint_set_clock(uint64_t nanoseconds)
{
    struct timespec now = {
        .tv_sec = (time_t)(nanoseconds / 1000000000u),
        .tv_nsec = (long)(nanoseconds % 1000000000u),
    };
    return clock_settime(CLOCK_REALTIME, &now) == 0 ? 0 : errno;
}

/* Two machines that go on from one saved state must not draw the same numbers. */
static int reseed(const uint8_t *bytes)
{
    /* struct rand_pool_info: the number of bits, the number of bytes, the bytes. */
    uint32_t entropy[2 + ENTROPY_SIZE / sizeof(uint32_t)] = {8 * ENTROPY_SIZE, ENTROPY_SIZE};
    memcpy(entropy + 2, bytes, ENTROPY_SIZE);
    int error = ioctl(pool, RNDADDENTROPY, entropy) == 0 ? 0 : errno;
    if (error == 0 && ioctl(pool, RNDRESEEDCRNG) != 0)
        error = errno;
    explicit_bzero(entropy, sizeof entropy);
    return error;
}

const char *checkpoint_thaw(const struct frame *frame)
{
    if (!frozen)
        return "the machine is not frozen";
    int clock_error = 0, pool_error = 0;
    if (!agent_is_test()) {
        clock_error = checkpoint_set_clock(get_u64(frame->payload));
        pool_error = reseed(frame->payload + sizeof(uint64_t));
    }
    frozen = false;
    struct record_writer *records = channel_begin_records();
    record_put_number(records, 15, (uint64_t)clock_error);
    record_put_number(records, 16, (uint64_t)pool_error);
    channel_send_records(FRAME_THAWED, 0);
    return NULL;
}
