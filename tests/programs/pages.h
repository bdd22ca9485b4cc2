/* What the pages of a region have to hold, and the check of it; for memory.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

/* A page's generation: 0 is what the kernel gives (zeros, or what the file holds). */
struct region {
    int shared, fd;
    uint64_t seed;
    size_t pages, file_pages;
    char *start;
    uint32_t *generation;
};

static void fail(const char *format, ...)
{
    char text[400];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    printf("wrong: %s\n", text);
    fflush(stdout);
    _exit(1);
}

static void check_call(int good, const char *what)
{
    if (!good)
        fail("%s: %s", what, strerror(errno));
}

static uint64_t word(uint64_t seed, size_t page, uint32_t generation, size_t i)
{
    uint64_t x = seed + page * 0x9e3779b97f4a7c15u + generation * 0xbf58476d1ce4e5b9u + i;
    x ^= x >> 31;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 29;
}

/* What a file holds before it is written to, and beyond its end: zeros. */
static uint64_t expected(const struct region *region, size_t page, size_t i)
{
    uint32_t generation = region->generation[page];
    if (generation == 0)
        return region->fd >= 0 && page < region->file_pages ? word(region->seed, page, 0, i) : 0;
    return word(region->seed, page, generation, i);
}

static void check_page(const struct region *region, size_t page)
{
    const uint64_t *words = (const uint64_t *)(const void *)(region->start + page * PAGE);
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t want = expected(region, page, i), found = *(const volatile uint64_t *)&words[i];
        if (found != want)
            fail("%s %s region, page %zu of %zu, word %zu: %#llx instead of %#llx",
                 region->shared ? "shared" : "private", region->fd >= 0 ? "file" : "anonymous", page,
                 region->pages, i, (unsigned long long)found, (unsigned long long)want);
    }
}

static void write_page(struct region *region, size_t page)
{
    uint64_t *words = (uint64_t *)(void *)(region->start + page * PAGE);
    uint32_t generation = ++region->generation[page];
    for (size_t i = 0; i < WORDS; i++)
        ((volatile uint64_t *)words)[i] = word(region->seed, page, generation, i);
}

static void check_all(const struct region *region)
{
    for (size_t page = 0; page < region->pages; page++)
        check_page(region, page);
}
