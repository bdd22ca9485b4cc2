/* Writes a tar archive (POSIX pax) to a descriptor. */
#include "tar.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* IEEE 1003.1, pax: ustar interchange format. */
struct ustar {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8];
    char type, link[100], magic[6], version[2], user[32], group[32], major[8], minor[8];
    char prefix[155], padding[12];
};

_Static_assert(sizeof(struct ustar) == TAR_BLOCK, "a header is one block");

static const uint64_t largest_id = 07777777, largest_size = 077777777777;
enum { OUTPUT_SIZE = 1 << 18, NUMBER_TEXT = 32 };

static struct {
    int fd;
    size_t used;
    uint8_t bytes[OUTPUT_SIZE];
} output;

static bool write_all(const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t done = write(output.fd, bytes, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return false;
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

static bool flush(void)
{
    size_t used = output.used;
    output.used = 0;
    return write_all(output.bytes, used);
}

bool tar_begin(int fd)
{
    output.fd = fd;
    output.used = 0;
    return true;
}

bool tar_data(const void *bytes, size_t size)
{
    if (size > OUTPUT_SIZE - output.used && !flush())
        return false;
    if (size > OUTPUT_SIZE)
        return write_all(bytes, size);
    memcpy(output.bytes + output.used, bytes, size);
    output.used += size;
    return true;
}

uint8_t *tar_room(uint64_t wanted, size_t *room)
{
    if (output.used == OUTPUT_SIZE && !flush())
        return NULL;
    *room = OUTPUT_SIZE - output.used;
    if (wanted < *room)
        *room = (size_t)wanted;
    return output.bytes + output.used;
}

void tar_filled(size_t size)
{
    output.used += size;
}

bool tar_pad(uint64_t size)
{
    static const uint8_t zeros[TAR_BLOCK];
    size_t rest = (size_t)(size % TAR_BLOCK);
    return rest == 0 || tar_data(zeros, TAR_BLOCK - rest);
}

bool tar_end(void)
{
    static const uint8_t zeros[2 * TAR_BLOCK];
    return tar_data(zeros, sizeof zeros) && flush();
}

/* The number of digits that a record's length adds to itself. */
static size_t record_length(size_t content)
{
    size_t length = content + 1;
    for (;;) {
        char digits[NUMBER_TEXT];
        size_t whole = content + (size_t)snprintf(digits, sizeof digits, "%zu", length);
        if (whole == length)
            return length;
        length = whole;
    }
}

bool tar_record(struct tar_records *records, const char *name, const char *suffix,
                const void *value, size_t size)
{
    size_t content = strlen(name) + strlen(suffix) + size + 3;
    size_t length = record_length(content);
    if (records->size + length + NUMBER_TEXT > records->room) {
        size_t room = 2 * (records->size + length + NUMBER_TEXT);
        uint8_t *bytes = realloc(records->bytes, room);
        if (bytes == NULL)
            return false;
        records->bytes = bytes;
        records->room = room;
    }
    uint8_t *at = records->bytes + records->size;
    int head = snprintf((char *)at, records->room - records->size, "%zu %s%s=", length, name, suffix);
    if (size > 0)
        memcpy(at + head, value, size);
    at[length - 1] = '\n';
    records->size += length;
    return true;
}

static void octal(char *field, size_t width, uint64_t value)
{
    char text[NUMBER_TEXT];
    snprintf(text, sizeof text, "%0*" PRIo64, (int)width - 1, value);
    memcpy(field, text, width);
}

/* Names without a terminator where they just fit: the format's way. */
static void copy_text(char *field, size_t width, const char *text)
{
    size_t length = strlen(text);
    memcpy(field, text, length < width ? length : width);
}

static bool put_header(const struct tar_entry *entry, char type, const char *name, uint64_t size)
{
    struct ustar header = {.magic = "ustar", .version = {'0', '0'}, .type = type};
    copy_text(header.name, sizeof header.name, name);
    if (entry->link != NULL && type == (char)entry->type)
        copy_text(header.link, sizeof header.link, entry->link);
    octal(header.mode, sizeof header.mode, entry->mode & 07777);
    octal(header.uid, sizeof header.uid, entry->uid <= largest_id ? entry->uid : 0);
    octal(header.gid, sizeof header.gid, entry->gid <= largest_id ? entry->gid : 0);
    octal(header.size, sizeof header.size, size <= largest_size ? size : 0);
    int64_t seconds = entry->time.tv_sec;
    octal(header.mtime, sizeof header.mtime,
          seconds >= 0 && (uint64_t)seconds <= largest_size ? (uint64_t)seconds : 0);
    octal(header.major, sizeof header.major, entry->major);
    octal(header.minor, sizeof header.minor, entry->minor);
    memset(header.checksum, ' ', sizeof header.checksum);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof header; i++)
        sum += ((const unsigned char *)&header)[i];
    snprintf(header.checksum, sizeof header.checksum, "%06o", sum);
    return tar_data(&header, sizeof header);
}

static bool text_record(struct tar_records *records, const char *name, const char *text)
{
    return tar_record(records, name, "", text, strlen(text));
}

static bool number_record(struct tar_records *records, const char *name, uint64_t value)
{
    char text[NUMBER_TEXT];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return text_record(records, name, text);
}

static bool time_record(struct tar_records *records, struct timespec time)
{
    char text[2 * NUMBER_TEXT];
    int64_t seconds = time.tv_sec;
    long fraction = time.tv_nsec;
    const char *sign = "";
    if (seconds < 0) { /* -1.5 s is -2 s and 0.5 s */
        sign = "-";
        seconds = -seconds - (fraction > 0);
        fraction = fraction > 0 ? 1000000000 - fraction : 0;
    }
    snprintf(text, sizeof text, "%s%" PRId64 ".%09ld", sign, seconds, fraction);
    return text_record(records, "mtime", text);
}

static bool gather(struct tar_records *records, const struct tar_entry *entry)
{
    struct ustar *header = NULL;
    bool good = true;
    if (strlen(entry->path) > sizeof header->name)
        good = text_record(records, "path", entry->path);
    if (entry->link != NULL && strlen(entry->link) > sizeof header->link)
        good = good && text_record(records, "linkpath", entry->link);
    if (entry->uid > largest_id)
        good = good && number_record(records, "uid", entry->uid);
    if (entry->gid > largest_id)
        good = good && number_record(records, "gid", entry->gid);
    if (entry->size > largest_size)
        good = good && number_record(records, "size", entry->size);
    if (entry->time.tv_nsec != 0 || entry->time.tv_sec < 0)
        good = good && time_record(records, entry->time);
    return good;
}

bool tar_header(const struct tar_entry *entry)
{
    static struct tar_records records;
    records.size = 0;
    if (!gather(&records, entry))
        return false;
    uint64_t size = records.size + entry->records_size;
    if (size > 0) {
        struct tar_entry plain = {.type = TAR_FILE, .mode = 0644};
        if (!put_header(&plain, 'x', "pax", size) || !tar_data(records.bytes, records.size) ||
            !tar_data(entry->records, entry->records_size) || !tar_pad(size))
            return false;
    }
    return put_header(entry, (char)entry->type, entry->path, entry->size);
}
