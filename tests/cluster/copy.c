/* The entrypoint of an image that brings a library: `copy -r FROM TO`, as `cp` does it, for an image that holds nothing else. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what, const char *path) {
    fprintf(stderr, "copy: cannot %s '%s': %s\n", what, path, strerror(errno));
    exit(1);
}

static void copy_file(const char *from, const char *to, const struct stat *found) {
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, found->st_mode & 0777);
    if (in < 0 || out < 0) fail("copy", from);
    for (off_t left = found->st_size; left > 0;) {
        ssize_t count = sendfile(out, in, NULL, left);
        if (count <= 0) fail("write", to);
        left -= count;
    }
    close(in);
    if (close(out)) fail("write", to);
}

static void copy(const char *from, const char *to) {
    struct stat found;
    if (stat(from, &found)) fail("stat", from);
    if (!S_ISDIR(found.st_mode)) {
        copy_file(from, to, &found);
        return;
    }
    DIR *folder = opendir(from);
    if (!folder || mkdir(to, 0755)) fail("make", to);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char source[4096], target[4096];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
        snprintf(target, sizeof target, "%s/%s", to, entry->d_name);
        copy(source, target);
    }
    closedir(folder);
}

int main(int count, char **words) {
    char target[4096];
    if (count != 4 || strcmp(words[1], "-r")) return 2;
    const char *name = strrchr(words[2], '/');
    snprintf(target, sizeof target, "%s/%s", words[3], name ? name + 1 : words[2]);
    copy(words[2], target);
    return 0;
}
