// sockets ROUNDS STATES PORT: the bare way to count TCP sockets by state: a sock_diag dump per family, filtered in the
// kernel by states (a hexadecimal mask) and, unless it is 0, by local port.
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];
static unsigned long count[16], received[16], sent[16];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void dump(int netlink, int family, unsigned states, int port) {
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
        struct rtattr attribute;
        struct inet_diag_bc_op filter[4];
    } message;
    memset(&message, 0, sizeof message);
    int length = sizeof message.header + sizeof message.request;
    message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.request.sdiag_family = family;
    message.request.sdiag_protocol = IPPROTO_TCP;
    message.request.idiag_states = states;
    if (port) {
        message.attribute.rta_type = INET_DIAG_REQ_BYTECODE;
        message.attribute.rta_len = sizeof message.attribute + sizeof message.filter;
        message.filter[0] = (struct inet_diag_bc_op){INET_DIAG_BC_S_GE, 8, 20};
        message.filter[1].no = port;
        message.filter[2] = (struct inet_diag_bc_op){INET_DIAG_BC_S_LE, 8, 12};
        message.filter[3].no = port;
        length += message.attribute.rta_len;
    }
    message.header.nlmsg_len = length;
    if (send(netlink, &message, length, 0) < 0) fail("send");
    for (;;) {
        int left = recv(netlink, buffer, sizeof buffer, 0);
        if (left <= 0) fail("recv");
        for (struct nlmsghdr *one = (void *)buffer; NLMSG_OK(one, left); one = NLMSG_NEXT(one, left)) {
            if (one->nlmsg_type == NLMSG_DONE) return;
            if (one->nlmsg_type == NLMSG_ERROR) fail("the kernel refused");
            struct inet_diag_msg *socket = NLMSG_DATA(one);
            int state = socket->idiag_state & 15;
            count[state]++;
            received[state] += socket->idiag_rqueue;
            sent[state] += socket->idiag_wqueue;
        }
    }
}

int main(int arguments, char **argument) {
    if (arguments != 4) return 2;
    long rounds = atol(argument[1]);
    unsigned states = strtoul(argument[2], 0, 16);
    for (long round = 0; round < rounds; round++) {
        memset(count, 0, sizeof count);
        memset(received, 0, sizeof received);
        memset(sent, 0, sizeof sent);
        int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
        if (netlink < 0) fail("socket");
        dump(netlink, AF_INET, states, atoi(argument[3]));
        dump(netlink, AF_INET6, states, atoi(argument[3]));
        close(netlink);
    }
    for (int state = 1; state < 12; state++)
        if (count[state]) printf("%d %lu %lu %lu\n", state, count[state], received[state], sent[state]);
}
