/* The floor: the least that a container like that of a plain `mini run` can cost.
 *
 * It makes the same namespaces, mounts, masks, cgroup, ids, capabilities and filter as `mini run --dry-run` lists, by
 * raw system calls, with every string known at compile time. It looks nothing up, checks no result, knows no option of a
 * container, writes no record, and cannot say what failed. Two things it does in another order than mini, because that is
 * the fastest that is still correct: the child makes its network namespace while the supervisor mounts, and the command
 * is forked like vfork(2). What the start of a container takes above this is what mini itself costs.
 *
 *     floor SCRATCH IMAGE INDEX FILTER [CGROUP=FILE=VALUE...] -- COMMAND [ARGUMENT...]
 *
 * SCRATCH   a directory that exists; a tmpfs is mounted on it, in the supervisor's own mount namespace
 * IMAGE     a directory, or a tar of which mini has made INDEX
 * INDEX     a file of mini's cache, or - for a directory
 * FILTER    how many instructions the filter of system calls has, at least 8
 * CGROUP    a directory that does not exist, in a hierarchy of version 1; of version 2 with a 2 before its first slash.
 *           VALUE is written to its FILE, several to one cgroup by naming it again
 *
 * Left out on purpose, as it is no work of the kernel's for a container: probing, the record and locks of a running
 * container, forwarding of signals, reports of errors, names looked up in /etc/passwd, the reset of 64 signals.
 * Exit status: the command's, or 1 if a signal ended it.
 *
 *     cc -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -o floor floor.c
 */
#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

/* --- system calls ------------------------------------------------------------------------------------------------ */

#define P(pointer) ((long)(pointer))
#define SIGCHLD 17
#define SIGKILL 9
#define MNT_DETACH 2
#define S_IFCHR 0020000
#define S_IFREG 0100000
#define IFF_UP 1
#define AF_NETLINK 16
#define SOCK_RAW 3
/* What mini's ids begin at is chosen for each container; here it is always this. */
#define BASE 2000027648
#define BASE_TEXT "2000027648"

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
static inline __attribute__((always_inline)) long call6(long n, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
static inline __attribute__((always_inline)) long call6(long n, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n and sp, x0, #-16\n bl begin\n");
#else
#error "tests/peers/floor.c: this machine's system calls are not known here"
#endif

#define call(n, a, b, c, d, e) call6(__NR_##n, P(a), P(b), P(c), P(d), P(e), 0)

static void mount(const char *source, const char *target, const char *type, long flags, const char *data) {
    call(mount, source, target, type, flags, data);
}
static void mkdir(const char *path, long mode) { call(mkdirat, AT_FDCWD, path, mode, 0, 0); }
static void node(const char *path, long mode, long device) { call(mknodat, AT_FDCWD, path, mode, device, 0); }
static void link_to(const char *target, const char *path) { call(symlinkat, target, AT_FDCWD, path, 0, 0); }
static long open_file(const char *path, long flags) { return call(openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644, 0); }

static size_t length(const char *text) {
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}
static void put(const char *path, const char *text) {
    long file = open_file(path, O_WRONLY | O_CREAT);
    call(write, file, text, length(text), 0, 0);
    call(close, file, 0, 0, 0, 0);
}
/* Joins up to three pieces into a buffer that is long enough. */
static char *join(char *to, const char *a, const char *b, const char *c) {
    char *at = to;
    for (const char *pieces[] = {a, b, c}, **piece = pieces; piece < pieces + 3; piece++)
        for (const char *from = *piece; *from; from++)
            *at++ = *from;
    *at = 0;
    return to;
}
static char *decimal(char *end, long number) {
    for (*--end = 0; number || !end[0]; number /= 10) {
        *--end = '0' + number % 10;
        if (number < 10)
            break;
    }
    return end;
}
static long number_of(const char *text) {
    long number = 0;
    while (*text)
        number = number * 10 + *text++ - '0';
    return number;
}

/* --- what is the same in every start ----------------------------------------------------------------------------- */

static const char *const masked[][2] = {
    {"mask/directory", "root/proc/acpi"},   {"mask/directory", "root/proc/asound"},
    {"mask/file", "root/proc/interrupts"},  {"mask/file", "root/proc/kcore"},
    {"mask/file", "root/proc/keys"},        {"mask/file", "root/proc/latency_stats"},
    {"mask/file", "root/proc/sched_debug"}, {"mask/directory", "root/proc/scsi"},
    {"mask/file", "root/proc/timer_list"},  {"mask/file", "root/proc/timer_stats"},
    {"mask/directory", "root/sys/devices/virtual/powercap"}, {"mask/directory", "root/sys/firmware"},
};
static const char *const read_only[] = {"root/proc/bus", "root/proc/fs", "root/proc/irq", "root/proc/sys",
                                        "root/proc/sysrq-trigger"};
static const struct {
    const char *path;
    long mode, device;
} nodes[] = {
    {"dev/null", S_IFCHR | 0666, 0x103},   {"dev/zero", S_IFCHR | 0666, 0x105},
    {"dev/full", S_IFCHR | 0666, 0x107},   {"dev/random", S_IFCHR | 0666, 0x108},
    {"dev/urandom", S_IFCHR | 0666, 0x109}, {"dev/tty", S_IFCHR | 0666, 0x500},
    {"mask/file", S_IFREG, 0},
};
static const char *const made_files[][2] = {
    {"own/hosts", "root/etc/hosts"}, {"own/hostname", "root/etc/hostname"}, {"own/resolv.conf", "root/etc/resolv.conf"}};

#define CAPABILITY(name) (1u << CAP_##name)
static const uint32_t kept = CAPABILITY(CHOWN) | CAPABILITY(DAC_OVERRIDE) | CAPABILITY(FOWNER) | CAPABILITY(FSETID) |
                             CAPABILITY(KILL) | CAPABILITY(SETGID) | CAPABILITY(SETUID) | CAPABILITY(SETPCAP) |
                             CAPABILITY(NET_BIND_SERVICE) | CAPABILITY(SYS_CHROOT) | CAPABILITY(SETFCAP);
static void set_capabilities(uint32_t set) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{set, set, 0}, {0, 0, 0}};
    call(capset, &header, data, 0, 0, 0);
}

/* A balanced tree of comparisons of the call's number, as mini's filter is one: each leaf allows five calls, except
 * those of mounting and of loading modules. */
static struct sock_filter filter[256];
static int filled, instructions;
static int forbidden(long number) {
#if defined(__x86_64__)
    return number >= 165 && number < 180;
#else
    return number >= 40 && number < 45;
#endif
}
static void leaf_or_tree(int low, int high);
static void jump_to(uint8_t *offset, int from, int low, int high) {
    if (low == high)
        *offset = (forbidden(5 * low) ? instructions - 1 : instructions - 2) - from - 1;
    else {
        *offset = filled - from - 1;
        leaf_or_tree(low, high);
    }
}
/* Decides between the leaves low to high, of which there are at least two. */
static void leaf_or_tree(int low, int high) {
    int here = filled++, middle = (low + high + 1) / 2;
    filter[here] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 5 * middle, 0, 0);
    jump_to(&filter[here].jf, here, low, middle - 1);
    jump_to(&filter[here].jt, here, middle, high);
}
static void make_filter(void) {
    filter[filled++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[filled++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
    filter[filled++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[filled++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    leaf_or_tree(0, instructions - 6);
    filter[filled++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[filled++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1);
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                    "HOME=/root", "HOSTNAME=floor", NULL};

static __attribute__((noinline, noreturn)) void command(char **arguments) {
    static const struct rlimit64 core = {1, 1}, files = {1024, 20000}, stack = {8 << 20, RLIM64_INFINITY};
    call(setsid, 0, 0, 0, 0, 0);
    call(dup3, open_file("/dev/null", O_RDWR), 0, 0, 0, 0);
    call(close_range, 3, ~0U, 0, 0, 0);
    call(chdir, "/", 0, 0, 0, 0);
    call(prlimit64, 0, RLIMIT_CORE, &core, 0, 0);
    call(prlimit64, 0, RLIMIT_NOFILE, &files, 0, 0);
    call(prlimit64, 0, RLIMIT_STACK, &stack, 0, 0);
    call(umask, 022, 0, 0, 0, 0);
    for (long capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (capability >= 32 || !(kept >> capability & 1))
            call(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
    call(setgroups, 0, 0, 0, 0, 0);
    call(setresgid, 0, 0, 0, 0, 0);
    call(setresuid, 0, 0, 0, 0, 0);
    set_capabilities(kept);
    call(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    struct sock_fprog program = {instructions, filter};
    call(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program, 0, 0);
    call(execve, arguments[0], arguments, environment, 0, 0);
    call(exit_group, 127, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* --- PID 1 ------------------------------------------------------------------------------------------------------- */

static void loopback_up(void) {
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
    } up = {{sizeof up, RTM_NEWLINK, NLM_F_REQUEST, 0, 0}, {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP}};
    long link = call(socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, 0, 0);
    call6(__NR_sendto, link, P(&up), sizeof up, 0, 0, 0);
    call(close, link, 0, 0, 0, 0);
}

static __attribute__((noreturn)) void init(const char *scratch, long go, const long *joins, int cgroup2, char **arguments) {
    char byte;
    for (; *joins; joins++)
        call(write, *joins, "0", 1, 0, 0);
    call(unshare, CLONE_NEWNET, 0, 0, 0, 0);
    loopback_up();
    call(sethostname, "floor", 5, 0, 0, 0);
    call(setsid, 0, 0, 0, 0, 0);
    call(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0);
    call(read, go, &byte, 1, 0, 0);

    call(setgroups, 0, 0, 0, 0, 0);
    call(setresgid, 0, 0, 0, 0, 0);
    call(setresuid, 0, 0, 0, 0, 0);
    call(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    call(unshare, CLONE_NEWNS | CLONE_NEWCGROUP, 0, 0, 0, 0);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    call(chdir, scratch, 0, 0, 0, 0);

    mount("tmpfs", "own", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
    mkdir("own/upper", 0755);
    mkdir("own/work", 0700);
    put("own/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tfloor\n");
    put("own/hostname", "floor\n");
    put("own/resolv.conf", "# no network\n");
    mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=67108864");
    mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("overlay", "root", "overlay", MS_NOSUID | MS_NODEV, "lowerdir=lower,upperdir=own/upper,workdir=own/work,userxattr");
    mount("proc", "root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sysfs", "root/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    if (cgroup2)
        mount("cgroup2", "root/sys/fs/cgroup", "cgroup2", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    put("root/proc/sys/net/ipv4/ping_group_range", "0 65535\n");
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
        mount(masked[i][0], masked[i][1], NULL, MS_BIND, NULL);
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL);
        mount(NULL, read_only[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    }
    mount("dev", "root/dev", NULL, MS_BIND | MS_REC, NULL);
    for (size_t i = 0; i < sizeof made_files / sizeof *made_files; i++) {
        node(made_files[i][1], S_IFREG | 0644, 0);
        mount(made_files[i][0], made_files[i][1], NULL, MS_BIND, NULL);
    }
    call(chdir, "root", 0, 0, 0, 0);
    call(pivot_root, ".", ".", 0, 0, 0);
    call(umount2, ".", MNT_DETACH, 0, 0, 0);

    call(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* The memory is shared until the execve; this function uses nothing afterwards that the command's side changes. */
    long child = call(clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        command(arguments);
    set_capabilities(CAPABILITY(KILL));
    call(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    call(close_range, 0, ~0U, 0, 0, 0);
    int status = 0;
    while (call(wait4, -1, &status, 0, 0, 0) != child)
        ;
    call(exit_group, status & 0x7f ? 1 : status >> 8 & 0xff, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* --- the supervisor ---------------------------------------------------------------------------------------------- */

/* The image as a mount that is not attached yet: of a directory, or of an index with the tar as its device. */
static long image_mount(const char *image, const char *index) {
    if (index[0] == '-')
        return call(open_tree, AT_FDCWD, image, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE, 0, 0);
    long fs = call(fsopen, "erofs", FSOPEN_CLOEXEC, 0, 0, 0);
    call(fsconfig, fs, FSCONFIG_SET_STRING, "source", index, 0);
    call(fsconfig, fs, FSCONFIG_SET_STRING, "device", image, 0);
    call(fsconfig, fs, FSCONFIG_SET_FLAG, "ro", 0, 0);
    call(fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    return call(fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0);
}

__attribute__((noreturn, used)) void begin(long *start) {
    char **arguments = (char **)start + 2; /* after the count and the program's name */
    const char *scratch = arguments[0], *image = arguments[1], *index = arguments[2];
    char path[512], digits[24];
    long joins[8] = {0}, into = 0;
    int made = 0, joined = 0;
    char *cgroups[8] = {0};

    instructions = number_of(arguments[3]);
    make_filter();
    call(umask, 0, 0, 0, 0, 0);
    call(close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC, 0, 0);
    call(unshare, CLONE_NEWNS, 0, 0, 0, 0);
    mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
    int pipe[2];
    call(pipe2, pipe, O_CLOEXEC, 0, 0, 0);

    for (arguments += 4; arguments[0][0] != '-'; arguments++) {
        int version2 = arguments[0][0] == '2';
        char *directory = arguments[0] + version2, *file = directory, *value;
        while (*file != '=')
            file++;
        *file++ = 0;
        for (value = file; *value != '=';)
            value++;
        *value++ = 0;
        if (call(mkdirat, AT_FDCWD, directory, 0755, 0, 0) == 0) {
            cgroups[made++] = directory;
            if (version2)
                into = open_file(directory, O_PATH | O_DIRECTORY);
            else
                joins[joined++] = open_file(join(path, directory, "/tasks", ""), O_WRONLY);
        }
        put(join(path, directory, "/", file), value);
    }
    arguments++;

    struct clone_args clone = {
        .flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (into ? CLONE_INTO_CGROUP : 0),
        .exit_signal = SIGCHLD,
        .cgroup = into,
    };
    long pid = call(clone3, &clone, sizeof clone, 0, 0, 0);
    if (pid == 0)
        init(scratch, pipe[0], joins, into != 0, arguments);

    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=65536k");
    call(chdir, scratch, 0, 0, 0, 0);
    for (const char *const directories[] = {"root", "lower", "own", "dev", "dev/pts", "dev/shm", "dev/mqueue", "mask",
                                            "mask/directory", NULL}, *const *directory = directories; *directory; directory++)
        mkdir(*directory, 0755);
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        node(nodes[i].path, nodes[i].mode, nodes[i].device);
    link_to("/proc/self/fd", "dev/fd");
    link_to("/proc/self/fd/0", "dev/stdin");
    link_to("/proc/self/fd/1", "dev/stdout");
    link_to("/proc/self/fd/2", "dev/stderr");
    link_to("pts/ptmx", "dev/ptmx");
    call(fchownat, AT_FDCWD, "dev", BASE, BASE, 0);
    mount("mask", "mask", NULL, MS_BIND, NULL);
    struct mount_attr locked = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    call(mount_setattr, AT_FDCWD, "mask", 0, &locked, sizeof locked);

    const char *number = decimal(digits + sizeof digits, pid);
    put(join(path, "/proc/", number, "/uid_map"), "0 " BASE_TEXT " 65536");
    put(join(path, "/proc/", number, "/gid_map"), "0 " BASE_TEXT " 65536");
    long tree = image_mount(image, index);
    struct mount_attr idmapped = {.attr_set = MOUNT_ATTR_IDMAP,
                                  .userns_fd = open_file(join(path, "/proc/", number, "/ns/user"), O_RDONLY)};
    call(mount_setattr, tree, "", AT_EMPTY_PATH, &idmapped, sizeof idmapped);
    call(move_mount, tree, "", AT_FDCWD, "lower", MOVE_MOUNT_F_EMPTY_PATH);
    call(write, pipe[1], "!", 1, 0, 0);

    int status = 0;
    call(wait4, pid, &status, 0, 0, 0);
    while (made)
        call(unlinkat, AT_FDCWD, cgroups[--made], AT_REMOVEDIR, 0, 0);
    call(exit_group, status & 0x7f ? 1 : status >> 8 & 0xff, 0, 0, 0, 0);
    __builtin_unreachable();
}
