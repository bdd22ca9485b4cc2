/* Does what lines of standard input say, one file system call each, and prints what came of it. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLOTS = 4, WORDS = 8, MOST = 1 << 20 };

static int slots[SLOTS] = {-1, -1, -1, -1};
static char data[MOST];
static char *words[WORDS];
static size_t count;

static long number(size_t n)
{
    return n < count ? strtol(words[n], NULL, 0) : 0;
}

static const char *name(size_t n)
{
    return n < count ? words[n] : "";
}

static int slot(size_t n)
{
    long at = number(n);
    return at >= 0 && at < SLOTS ? slots[at] : -1;
}

static size_t amount(size_t n)
{
    long asked = number(n);
    return asked < 0 ? 0 : asked > MOST ? MOST : (size_t)asked;
}

static void fill(size_t length, long seed)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (char)(seed + 7 * (long)i + (long)(i >> 8));
}

static uint32_t sum(const char *from, size_t length)
{
    uint32_t value = 2166136261u;
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)from[i]) * 16777619u;
    return value;
}

static void say(long result)
{
    if (result < 0)
        printf("error %d\n", errno);
    else
        printf("%ld\n", result);
}

static void say_stat(int result, const struct stat *found, bool times)
{
    if (result < 0) {
        say(result);
        return;
    }
    bool sized = S_ISREG(found->st_mode) || S_ISLNK(found->st_mode);
    printf("mode %o links %lu size %lld owner %u:%u", found->st_mode,
           S_ISDIR(found->st_mode) ? 0ul : (unsigned long)found->st_nlink,
           sized ? (long long)found->st_size : 0ll, found->st_uid, found->st_gid);
    if (times)
        printf(" mtime %lld.%09ld atime %lld.%09ld", (long long)found->st_mtim.tv_sec,
               found->st_mtim.tv_nsec, (long long)found->st_atim.tv_sec, found->st_atim.tv_nsec);
    putchar('\n');
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names and types in order; with a pause in the middle of reading if asked for. */
static void list(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        say(-1);
        return;
    }
    static char *names[4096];
    size_t found = 0;
    for (struct dirent *entry; found < 4096 && (entry = readdir(folder)) != NULL; found++)
        if (asprintf(&names[found], "%s/%d", entry->d_name, entry->d_type) < 0)
            abort();
    closedir(folder);
    qsort(names, found, sizeof *names, by_name);
    for (size_t i = 0; i < found; i++) {
        printf("%s ", names[i]);
        free(names[i]);
    }
    printf("%zu\n", found);
}

/* Read a folder in two halves: seekdir() to where telldir() was must give the rest. */
static void list_again(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        say(-1);
        return;
    }
    size_t all = 0, rest = 0, again = 0;
    while (readdir(folder) != NULL)
        all++;
    rewinddir(folder);
    for (size_t i = 0; i < all / 2; i++)
        readdir(folder);
    long place = telldir(folder);
    while (readdir(folder) != NULL)
        rest++;
    seekdir(folder, place);
    while (readdir(folder) != NULL)
        again++;
    closedir(folder);
    printf("%zu %zu %zu\n", all, rest, again);
}

static void map(bool writing)
{
    int fd = slot(1);
    long start = number(2);
    size_t length = amount(3);
    struct stat found;
    if (fstat(fd, &found) != 0) {
        say(-1);
        return;
    }
    /* Beyond the end there is nothing but SIGBUS. */
    if (start >= found.st_size) {
        puts("beyond");
        return;
    }
    if ((long long)length > found.st_size - start)
        length = (size_t)(found.st_size - start);
    long page = start & ~4095l;
    size_t size = length + (size_t)(start - page);
    char *at = mmap(NULL, size, writing ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, page);
    if (at == MAP_FAILED) {
        say(-1);
        return;
    }
    if (writing) {
        fill(length, number(4));
        memcpy(at + (start - page), data, length);
        if (number(5))
            say(msync(at, size, MS_SYNC));
        else
            puts("written");
    } else {
        printf("%zu %08x\n", length, sum(at + (start - page), length));
    }
    munmap(at, size);
}

/* A mapping that stays: everything in it is read, and then single bytes are written. */
static char *held;

static void hold(void)
{
    size_t length = amount(2);
    held = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, slot(1), 0);
    if (held == MAP_FAILED)
        say(-1);
    else
        printf("%zu %08x\n", length, sum(held, length));
}

static void open_slot(void)
{
    long at = number(1);
    if (at < 0 || at >= SLOTS) {
        puts("bad slot");
        return;
    }
    if (slots[at] >= 0)
        close(slots[at]);
    slots[at] = open(name(2), (int)number(3) | O_CLOEXEC, (mode_t)number(4));
    say(slots[at] < 0 ? -1 : 0);
}

static void close_all(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i] >= 0) {
            close(slots[i]);
            slots[i] = -1;
        }
}

static void read_at(void)
{
    size_t length = amount(3);
    ssize_t got = pread(slot(1), data, length, number(2));
    if (got < 0)
        say(-1);
    else
        printf("%zd %08x\n", got, sum(data, (size_t)got));
}

static bool on_descriptor(const char *verb)
{
    struct stat found;
    if (strcmp(verb, "open") == 0)
        open_slot();
    else if (strcmp(verb, "close") == 0) {
        long at = number(1);
        say(close(slot(1)));
        if (at >= 0 && at < SLOTS)
            slots[at] = -1;
    } else if (strcmp(verb, "pwrite") == 0) {
        fill(amount(3), number(4));
        say(pwrite(slot(1), data, amount(3), number(2)));
    } else if (strcmp(verb, "write") == 0) {
        fill(amount(2), number(3));
        say(write(slot(1), data, amount(2)));
    } else if (strcmp(verb, "pread") == 0)
        read_at();
    else if (strcmp(verb, "ftruncate") == 0)
        say(ftruncate(slot(1), number(2)));
    else if (strcmp(verb, "fstat") == 0)
        say_stat(fstat(slot(1), &found), &found, number(2) != 0);
    else if (strcmp(verb, "fchmod") == 0)
        say(fchmod(slot(1), (mode_t)number(2)));
    else if (strcmp(verb, "fallocate") == 0)
        say(fallocate(slot(1), (int)number(2), number(3), number(4)));
    else if (strcmp(verb, "lseek") == 0)
        say(lseek(slot(1), number(2), (int)number(3)));
    else if (strcmp(verb, "fsync") == 0)
        say(number(2) ? fdatasync(slot(1)) : fsync(slot(1)));
    else if (strcmp(verb, "mapread") == 0)
        map(false);
    else if (strcmp(verb, "mapwrite") == 0)
        map(true);
    else if (strcmp(verb, "hold") == 0)
        hold();
    else if (strcmp(verb, "poke") == 0)
        say(held[number(1)] = (char)number(2));
    else if (strcmp(verb, "release") == 0)
        say(msync(held, amount(1), MS_SYNC) != 0 ? -1 : munmap(held, amount(1)));
    else if (strcmp(verb, "flock") == 0)
        say(flock(slot(1), (int)number(2) | LOCK_NB));
    else if (strcmp(verb, "copy") == 0) {
        off_t in = number(3), out = number(4);
        say(copy_file_range(slot(1), &in, slot(2), &out, amount(5), 0));
    } else
        return false;
    return true;
}

static void posix_lock(bool test)
{
    struct flock lock = {
        .l_type = (short)number(2), .l_whence = SEEK_SET, .l_start = number(3), .l_len = number(4)};
    int result = fcntl(slot(1), test ? F_GETLK : F_SETLK, &lock);
    if (result < 0 || !test)
        say(result);
    else
        printf("lock %d\n", lock.l_type);
}

static void set_times(void)
{
    struct timespec times[2] = {{.tv_sec = number(2), .tv_nsec = number(3)},
                                {.tv_sec = number(4), .tv_nsec = number(5)}};
    say(utimensat(AT_FDCWD, name(1), times, AT_SYMLINK_NOFOLLOW));
}

static void on_links(const char *verb)
{
    if (strcmp(verb, "readlink") == 0) {
        ssize_t length = readlink(name(1), data, MOST - 1);
        if (length < 0)
            say(-1);
        else
            printf("%.*s\n", (int)length, data);
    } else if (strcmp(verb, "getxattr") == 0) {
        long length = syscall(SYS_getxattr, name(1), name(2), data, MOST);
        if (length < 0)
            say(-1);
        else
            printf("%.*s\n", (int)length, data);
    } else if (strcmp(verb, "setxattr") == 0)
        say(syscall(SYS_setxattr, name(1), name(2), name(3), strlen(name(3)), (int)number(4)));
    else if (strcmp(verb, "rmxattr") == 0)
        say(syscall(SYS_removexattr, name(1), name(2)));
    else if (strcmp(verb, "lock") == 0)
        posix_lock(false);
    else if (strcmp(verb, "getlock") == 0)
        posix_lock(true);
    else
        puts("what?");
}

static void on_name(const char *verb)
{
    struct stat found;
    if (strcmp(verb, "stat") == 0)
        say_stat(lstat(name(1), &found), &found, number(2) != 0);
    else if (strcmp(verb, "truncate") == 0)
        say(truncate(name(1), number(2)));
    else if (strcmp(verb, "chmod") == 0)
        say(chmod(name(1), (mode_t)number(2)));
    else if (strcmp(verb, "utime") == 0)
        set_times();
    else if (strcmp(verb, "unlink") == 0)
        say(unlink(name(1)));
    else if (strcmp(verb, "mkdir") == 0)
        say(mkdir(name(1), (mode_t)number(2)));
    else if (strcmp(verb, "rmdir") == 0)
        say(rmdir(name(1)));
    else if (strcmp(verb, "rename") == 0)
        say(syscall(SYS_renameat2, AT_FDCWD, name(1), AT_FDCWD, name(2), (int)number(3)));
    else if (strcmp(verb, "link") == 0)
        say(link(name(1), name(2)));
    else if (strcmp(verb, "symlink") == 0)
        say(symlink(name(1), name(2)));
    else if (strcmp(verb, "mkfifo") == 0)
        say(mknod(name(1), S_IFIFO | (mode_t)number(2), 0));
    else if (strcmp(verb, "access") == 0)
        say(access(name(1), (int)number(2)));
    else if (strcmp(verb, "list") == 0)
        list(name(1));
    else if (strcmp(verb, "listagain") == 0)
        list_again(name(1));
    else if (strcmp(verb, "enter") == 0) {
        close_all();
        say(chdir(name(1)));
    } else
        on_links(verb);
}

int main(void)
{
    static char line[4 * PATH_MAX];
    umask(022);
    while (fgets(line, sizeof line, stdin) != NULL) {
        count = 0;
        for (char *word = strtok(line, " \n"); word != NULL && count < WORDS;
             word = strtok(NULL, " \n"))
            words[count++] = word;
        if (count > 0 && !on_descriptor(words[0]))
            on_name(words[0]);
        fflush(stdout);
    }
    return 0;
}
