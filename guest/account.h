/* A user of the image, looked up in its /etc/passwd and /etc/group. */
#ifndef APPPOT_ACCOUNT_H
#define APPPOT_ACCOUNT_H

#include <stdbool.h>
#include <sys/types.h>

enum { ACCOUNT_GROUPS_MAX = 1024, ACCOUNT_TEXT_MAX = 1024 };

struct account {
    uid_t uid;
    gid_t gid;
    size_t group_count;
    gid_t groups[ACCOUNT_GROUPS_MAX];
    char name[ACCOUNT_TEXT_MAX];
    char home[ACCOUNT_TEXT_MAX];
};

/* `wanted` is USER or USER:GROUP, each a name or a number, as an image's configuration has it.
 * False: there is no such user or group. */
bool account_find(const char *wanted, struct account *account);

#endif
