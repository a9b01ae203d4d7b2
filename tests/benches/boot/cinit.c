/* SPDX-License-Identifier: Apache-2.0
 *
 * The least that an init can do: loads the modules of the image in the image's order, as the image's own init does
 * (finit_module with MODULE_INIT_COMPRESSED_FILE), writes one byte to the serial port, and powers off. It mounts nothing,
 * checks nothing and starts nothing. Compiled with SETTLE_SECONDS it first sleeps so long, until the kernel has done what it
 * still does behind the back of a userspace that has just started: its times are then those of the modules alone. Before it powers off it prints one line of times, CLOCK_BOOTTIME in microseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#ifndef SETTLE_SECONDS
#define SETTLE_SECONDS 0
#endif

/* include/uapi/linux/module.h */
#define MODULE_INIT_COMPRESSED_FILE 4

static long long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int main(void)
{
	long long start, modules = 0, end, before;
	int loaded = 0, absent = 0, failed = 0, tty, fd;
	char group[16], file[96], path[128];
	FILE *order;

	sleep(SETTLE_SECONDS);
	start = now_us();
	order = fopen("/lib/modules/load-order", "re");
	while (order && fscanf(order, "%15s %95s", group, file) == 2) {
		snprintf(path, sizeof path, "/lib/modules/%s", file);
		before = now_us();
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && syscall(SYS_finit_module, fd, "", MODULE_INIT_COMPRESSED_FILE) == 0)
			loaded++;
		else if (fd >= 0 && errno == ENODEV && !strcmp(group, "tee"))
			absent++; /* a TEE's driver without its TEE */
		else
			failed++;
		if (fd >= 0)
			close(fd);
		modules += now_us() - before;
	}
	/* ttyS0, Documentation/admin-guide/devices.txt: character 4, 64. */
	mknod("/dev/ttyS0", S_IFCHR | 0600, makedev(4, 64));
	tty = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);
	if (write(tty, "\n", 1) != 1)
		failed++;
	end = now_us();

	dprintf(tty, "cinit: start_us=%lld end_us=%lld modules_us=%lld loaded=%d absent=%d failed=%d\n", start, end, modules,
		loaded, absent, failed);
	tcdrain(tty);
	reboot(RB_POWER_OFF);
	return 1;
}
