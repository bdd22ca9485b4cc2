/* share MB N FOLDER: what work in a shared folder costs. Prints the nanoseconds to write a
 * file of MB and to read it, and those for each of N small files to make, read, look at and remove
 * it. */
#include "clock.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char TEXT[] = "thirty-two bytes of some result\n";
static char piece[1 << 20];
static char folder[4096], name[4200];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static const char *numbered(size_t i)
{
    snprintf(name, sizeof name, "%s/%zu", folder, i);
    return name;
}

static void write_large(size_t megabytes)
{
    int file = open(numbered(0), O_CREAT | O_EXCL | O_WRONLY, 0600);
    for (size_t i = 0; i < megabytes; i++)
        if (write(file, piece, sizeof piece) != sizeof piece)
            fail("write");
    if (close(file) != 0)
        fail("close");
}

static void read_large(size_t megabytes)
{
    int file = open(numbered(0), O_RDONLY);
    size_t got = 0;
    ssize_t size;
    while ((size = read(file, piece, sizeof piece)) > 0)
        got += (size_t)size;
    if (got != megabytes << 20 || close(file) != 0)
        fail("read");
    if (unlink(name) != 0)
        fail("unlink");
}

static void make(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int file = open(numbered(i), O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (write(file, TEXT, sizeof TEXT - 1) != sizeof TEXT - 1 || close(file) != 0)
            fail("small write");
    }
}

static void read_all(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int file = open(numbered(i), O_RDONLY);
        if (read(file, piece, sizeof piece) != sizeof TEXT - 1 || close(file) != 0)
            fail("small read");
    }
}

static void look(size_t count)
{
    DIR *listed = opendir(folder);
    struct dirent *entry;
    struct stat status;
    size_t seen = 0;
    if (listed == NULL)
        fail("opendir");
    while ((entry = readdir(listed)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        if (fstatat(dirfd(listed), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            fail("stat");
        seen += status.st_size == sizeof TEXT - 1;
    }
    if (seen != count || closedir(listed) != 0)
        fail("list");
}

static void remove_all(size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (unlink(numbered(i)) != 0)
            fail("unlink");
}

static void print(void (*work)(size_t), size_t amount, size_t share)
{
    uint64_t begin = now(CLOCK_MONOTONIC);
    work(amount);
    printf("%llu ", (unsigned long long)((now(CLOCK_MONOTONIC) - begin) / share));
}

int main(int argc, char **argv)
{
    static void (*const large[])(size_t) = {write_large, read_large};
    static void (*const small[])(size_t) = {make, read_all, look, remove_all};
    if (argc != 4)
        return 2;
    size_t megabytes = strtoul(argv[1], NULL, 10), count = strtoul(argv[2], NULL, 10);
    snprintf(folder, sizeof folder, "%s/share-XXXXXX", argv[3]);
    if (mkdtemp(folder) == NULL)
        fail(folder);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        print(large[i], megabytes, 1);
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        print(small[i], count, count);
    putchar('\n');
    return rmdir(folder) == 0 ? 0 : 1;
}
