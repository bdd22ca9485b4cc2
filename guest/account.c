/* A user of the image, looked up in its /etc/passwd and /etc/group. */
#include "account.h"

#include <string.h>

#include "table.h"

static void copy(char *to, struct slice from)
{
    size_t length = from.length < ACCOUNT_TEXT_MAX ? from.length : ACCOUNT_TEXT_MAX - 1;
    memcpy(to, from.start, length);
    to[length] = 0;
}

static bool find_user(const char *wanted, struct account *account)
{
    struct slice line, text = {.start = wanted, .length = strlen(wanted)};
    struct table users = table_map("/etc/passwd");
    bool found = table_find(users, 0, wanted, &line) ||
                 (slice_number(text, &account->uid) && table_find(users, 2, wanted, &line));
    if (found) {
        found = slice_number(table_field(line, 2), &account->uid) &&
                slice_number(table_field(line, 3), &account->gid);
        copy(account->name, table_field(line, 0));
        copy(account->home, table_field(line, 5));
    } else {
        /* A number needs no entry. */
        found = slice_number(text, &account->uid);
        account->gid = 0;
        copy(account->name, text);
        copy(account->home, (struct slice){.start = "/", .length = 1});
    }
    table_unmap(users);
    return found;
}

static bool is_member(struct slice members, const char *name)
{
    while (members.length > 0) {
        const char *comma = memchr(members.start, ',', members.length);
        size_t length = comma != NULL ? (size_t)(comma - members.start) : members.length;
        if (slice_is((struct slice){.start = members.start, .length = length}, name))
            return true;
        size_t used = comma != NULL ? length + 1 : length;
        members.start += used;
        members.length -= used;
    }
    return false;
}

static void find_groups(struct table groups, struct account *account)
{
    struct slice line = {0};
    account->groups[0] = account->gid;
    account->group_count = 1;
    while (table_next(groups, &line) && account->group_count < ACCOUNT_GROUPS_MAX) {
        gid_t *place = &account->groups[account->group_count];
        if (is_member(table_field(line, 3), account->name) &&
            slice_number(table_field(line, 2), place) && *place != account->gid)
            account->group_count++;
    }
}

static bool find_group(struct table groups, const char *wanted, struct account *account)
{
    struct slice line, text = {.start = wanted, .length = strlen(wanted)};
    account->group_count = 1;
    bool found = table_find(groups, 0, wanted, &line)
                     ? slice_number(table_field(line, 2), &account->gid)
                     : slice_number(text, &account->gid);
    account->groups[0] = account->gid;
    return found;
}

bool account_find(const char *wanted, struct account *account)
{
    char user[ACCOUNT_TEXT_MAX];
    size_t length = strcspn(wanted, ":");
    if (length == 0 || length >= sizeof user)
        return false;
    memcpy(user, wanted, length);
    user[length] = 0;
    if (!find_user(user, account))
        return false;
    struct table groups = table_map("/etc/group");
    bool found = true;
    if (wanted[length] == ':')
        found = find_group(groups, wanted + length + 1, account);
    else
        find_groups(groups, account);
    table_unmap(groups);
    return found;
}
