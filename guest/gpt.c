/* GUID partition tables: the last partition is given the rest of a disk that has grown. */
#include "gpt.h"

#include <stdbool.h>
#include <string.h>

#include "frame.h"

enum {
    HEADER_SIZE = 92,
    ENTRIES = 128,
    ENTRY_SIZE = 128,
    TABLE = ENTRIES * ENTRY_SIZE,
    TABLE_SECTORS = TABLE / GPT_SECTOR,
    ALIGNED = 2048,
    AT_CHECK = 16,
    AT_OWN = 24,
    AT_OTHER = 32,
    AT_LAST_USABLE = 48,
    AT_TABLE = 72,
    AT_COUNT = 80,
    AT_SIZE = 84,
    AT_TABLE_CHECK = 88,
    AT_FIRST = 32,
    AT_LAST = 40,
};

static uint32_t crc32(const uint8_t *bytes, size_t size)
{
    uint32_t sum = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? UINT32_C(0xedb88320) : 0);
    }
    return ~sum;
}

static void put_check(uint8_t *header)
{
    put_u32(header + AT_CHECK, 0);
    put_u32(header + AT_CHECK, crc32(header, HEADER_SIZE));
}

static bool is_sound(const uint8_t *header, const uint8_t *table)
{
    uint8_t copy[HEADER_SIZE];
    memcpy(copy, header, sizeof copy);
    put_u32(copy + AT_CHECK, 0);
    return memcmp(header, "EFI PART", 8) == 0 && get_u32(header + 12) == HEADER_SIZE &&
           get_u32(header + AT_CHECK) == crc32(copy, sizeof copy) &&
           get_u64(header + AT_OWN) == 1 && get_u64(header + AT_TABLE) == 2 &&
           get_u32(header + AT_COUNT) == ENTRIES && get_u32(header + AT_SIZE) == ENTRY_SIZE &&
           get_u32(header + AT_TABLE_CHECK) == crc32(table, TABLE);
}

/* Whether no other partition ends behind the begin of this one. */
static bool is_last(const uint8_t *table, unsigned number)
{
    uint64_t first = get_u64(table + (number - 1) * ENTRY_SIZE + AT_FIRST);
    for (unsigned i = 0; i < ENTRIES; i++)
        if (i != number - 1 && get_u64(table + i * ENTRY_SIZE + AT_LAST) >= first)
            return false;
    return true;
}

struct extent gpt_grow(uint8_t *head, uint8_t *tail, uint64_t sectors, unsigned number)
{
    uint8_t *header = head + GPT_SECTOR, *table = header + GPT_SECTOR;
    const struct extent none = {0};
    if (number == 0 || number > ENTRIES || !is_sound(header, table) || !is_last(table, number))
        return none;
    uint8_t *entry = table + (number - 1) * ENTRY_SIZE;
    uint64_t first = get_u64(entry + AT_FIRST), last = get_u64(entry + AT_LAST);
    if (sectors < ALIGNED || first == 0 || last < first)
        return none;
    uint64_t end = (sectors - TABLE_SECTORS - 1) / ALIGNED * ALIGNED;
    if (end < ALIGNED || end - 1 <= last)
        return none;
    put_u64(entry + AT_LAST, end - 1);
    put_u64(header + AT_OTHER, sectors - 1);
    put_u64(header + AT_LAST_USABLE, sectors - TABLE_SECTORS - 2);
    put_u32(header + AT_TABLE_CHECK, crc32(table, TABLE));
    put_check(header);
    memcpy(tail, table, TABLE);
    uint8_t *second = tail + TABLE;
    memcpy(second, header, GPT_SECTOR);
    put_u64(second + AT_OWN, sectors - 1);
    put_u64(second + AT_OTHER, 1);
    put_u64(second + AT_TABLE, sectors - TABLE_SECTORS - 1);
    put_check(second);
    /* The protective entry of the MBR covers the disk, as far as its 32 bits go. */
    put_u32(head + 446 + 12, sectors - 1 > UINT32_MAX ? UINT32_MAX : (uint32_t)(sectors - 1));
    return (struct extent){first, end - first};
}
