// handles stat|list ROUNDS PID...: the bare ways to count the open fds of processes.
//   stat: the size of /proc/PID/fd (the count itself since Linux 6.2)
//   list: its entries, listed
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static char buffer[1 << 16];

static long by_stat(const char *path) {
    struct stat status;
    if (stat(path, &status)) {
        perror(path);
        exit(1);
    }
    return status.st_size;
}

static long by_list(const char *path) {
    int folder = open(path, O_RDONLY | O_DIRECTORY);
    if (folder < 0) {
        perror(path);
        exit(1);
    }
    long count = 0, length;
    while ((length = syscall(SYS_getdents64, folder, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < length;) {
            struct entry *entry = (void *)(buffer + at);
            at += entry->length;
            count += entry->name[0] != '.';
        }
    close(folder);
    return count;
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int stat_only = !strcmp(arguments[1], "stat");
    long rounds = atol(arguments[2]), handles = 0;
    for (long round = 0; round < rounds; round++) {
        handles = 0;
        for (int at = 3; at < count; at++) {
            char path[64];
            snprintf(path, sizeof path, "/proc/%s/fd", arguments[at]);
            handles += stat_only ? by_stat(path) : by_list(path);
        }
    }
    printf("%ld\n", handles);
}
