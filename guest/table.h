/* The account files: lines of fields separated by colons. */
#ifndef APPPOT_TABLE_H
#define APPPOT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct table {
    const char *bytes;
    size_t size;
};

struct slice {
    const char *start;
    size_t length;
};

/* A file that cannot be read is an empty table. */
struct table table_map(const char *path);
void table_unmap(struct table table);

/* Steps through the lines: begin with `line` = {0}. */
bool table_next(struct table table, struct slice *line);
/* The field with this number, from 0; empty if the line has fewer. */
struct slice table_field(struct slice line, int number);
/* The first line with this value in this field. */
bool table_find(struct table table, int number, const char *wanted, struct slice *line);

bool slice_is(struct slice slice, const char *text);
/* False if the slice is not a number below 2^32 - 1. */
bool slice_number(struct slice slice, unsigned *number);

#endif
