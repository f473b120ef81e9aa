/* The least that a server of large files can do: accept, read a request, write a head, call sendfile() until the end.
 *
 *   cc -O2 -pthread -o sendfile_loop sendfile_loop.c && ./sendfile_loop PORT FOLDER
 *
 * One blocking thread per connection, steps of 1 MiB. GET /file/NAME sends FOLDER/NAME; anything else says hello.
 * It is a yardstick for the price of sendfile() itself and no server: it believes whatever it is sent.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP = 1 << 20, HEAD = 8192 };

static const char HELLO[] = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!";
static const char *folder;

static int send_all(int sock, const char *data, size_t left) {
    while (left) {
        ssize_t sent = send(sock, data, left, 0);
        if (sent <= 0) return -1;
        data += sent;
        left -= (size_t)sent;
    }
    return 0;
}

static int send_file(int sock, const char *name) {
    char text[HEAD];
    snprintf(text, sizeof text, "%s/%s", folder, name);
    int file = open(text, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts)) return -1;
    int length = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)facts.st_size);
    off_t offset = 0;
    int failed = send_all(sock, text, (size_t)length);
    while (!failed && offset < facts.st_size) failed = sendfile(sock, file, &offset, STEP) <= 0;
    close(file);
    return failed ? -1 : 0;
}

static void *serve(void *argument) {
    int sock = (int)(intptr_t)argument;
    char request[HEAD + 1];
    size_t have = 0;
    for (;;) {
        ssize_t got = recv(sock, request + have, HEAD - have, 0);
        if (got <= 0) break;
        have += (size_t)got;
        request[have] = 0;
        if (!strstr(request, "\r\n\r\n")) continue;
        have = 0;
        char name[256];
        int failed = sscanf(request, "GET /file/%255[^ /] ", name) == 1 ? send_file(sock, name)
                                                                       : send_all(sock, HELLO, sizeof HELLO - 1);
        if (failed) break;
    }
    close(sock);
    return NULL;
}

int main(int count, char **words) {
    if (count != 3) return 2;
    folder = words[2];
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    for (;;) {
        int sock = accept(listener, NULL, NULL);
        if (sock < 0) continue;
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)sock)) close(sock);
        else pthread_detach(thread);
    }
}
