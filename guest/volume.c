/* How volumes with user data are told from others, and scripts from other user data. */
#include "volume.h"

#include <string.h>
#include <strings.h>

enum {
    ISO_DESCRIPTOR = 32768,
    ISO_LABEL = ISO_DESCRIPTOR + 40,
    ISO_LABEL_SIZE = 32,
    FAT_LABEL = 43,
    FAT32_LABEL = 71,
    FAT_LABEL_SIZE = 11,
};

/* Labels are filled up with blanks, and FAT's are in capitals as a rule. */
static bool is_label(const uint8_t *text, size_t size, const char *label)
{
    size_t length = strlen(label);
    if (length > size || strncasecmp((const char *)text, label, length) != 0)
        return false;
    while (length < size && (text[length] == ' ' || text[length] == 0))
        length++;
    return length == size;
}

static bool has_label(const uint8_t *text, size_t size, const char **file)
{
    if (is_label(text, size, "cidata")) {
        *file = "user-data";
        return true;
    }
    *file = "openstack/latest/user_data";
    return is_label(text, size, "config-2");
}

const char *userdata_volume(const uint8_t *head, const char **file)
{
    if (memcmp(head + ISO_DESCRIPTOR, "\1CD001", 6) == 0)
        return has_label(head + ISO_LABEL, ISO_LABEL_SIZE, file) ? "iso9660" : NULL;
    if (head[510] == 0x55 && head[511] == 0xaa &&
        ((memcmp(head + FAT_LABEL + FAT_LABEL_SIZE, "FAT", 3) == 0 &&
          has_label(head + FAT_LABEL, FAT_LABEL_SIZE, file)) ||
         (memcmp(head + FAT32_LABEL + FAT_LABEL_SIZE, "FAT", 3) == 0 &&
          has_label(head + FAT32_LABEL, FAT_LABEL_SIZE, file))))
        return "vfat";
    return NULL;
}

bool userdata_is_script(struct bytes data)
{
    return data.size > 2 && data.bytes[0] == '#' && data.bytes[1] == '!';
}
