/* Loaded into redis-server (LD_PRELOAD): a slow disk, a full disk and a clock that jumps, without root. What holds now
 * stands in the file that FAULTS_WORLD names: three 64-bit numbers, written by the suite while the server runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct world {
  volatile int64_t sync_ms;  /* how much longer each fsync takes */
  volatile int64_t clock_ms; /* how far the wall clock is ahead */
  volatile int64_t is_full;  /* whether files take no more */
};

static struct world *world;

__attribute__((constructor)) static void open_world(void) {
  const char *path = getenv("FAULTS_WORLD");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *world, PROT_READ, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (map != MAP_FAILED) world = map;
}

static void wait_for_disk(void) {
  int64_t ms = world ? world->sync_ms : 0;
  struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
  if (ms > 0) nanosleep(&rest, NULL);
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  wait_for_disk();
  return real(fd);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  wait_for_disk();
  return real(fd);
}

/* A disk that fills up takes a part of what is written first, and then nothing. */
ssize_t write(int fd, const void *bytes, size_t length) {
  static ssize_t (*real)(int, const void *, size_t);
  static int has_room = 1;
  struct stat facts;
  if (!real) real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  if (!world || !world->is_full || fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode)) return real(fd, bytes, length);
  if (has_room && length > 1) {
    has_room = 0;
    return real(fd, bytes, length / 2);
  }
  errno = ENOSPC;
  return -1;
}

static void ahead(int64_t *seconds, int64_t *part, int64_t parts_per_ms) {
  int64_t ms = world ? world->clock_ms : 0, parts = 1000 * parts_per_ms;
  int64_t sum = *part + ms % 1000 * parts_per_ms;
  *seconds += ms / 1000;
  if (sum >= parts) {
    sum -= parts;
    *seconds += 1;
  } else if (sum < 0) {
    sum += parts;
    *seconds -= 1;
  }
  *part = sum;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int failed = real(time, zone);
  if (!failed) {
    int64_t seconds = time->tv_sec, part = time->tv_usec;
    ahead(&seconds, &part, 1000);
    time->tv_sec = seconds;
    time->tv_usec = part;
  }
  return failed;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, time);
  if (!failed && clock == CLOCK_REALTIME) {
    int64_t seconds = time->tv_sec, part = time->tv_nsec;
    ahead(&seconds, &part, 1000000);
    time->tv_sec = seconds;
    time->tv_nsec = part;
  }
  return failed;
}

time_t time(time_t *told) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (told) *told = now.tv_sec;
  return now.tv_sec;
}
