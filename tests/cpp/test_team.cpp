// Threads that share a loop out: every item once, exceptions, several callers, a child after fork.
#include "team.h"

#include <sys/wait.h>

#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (!holds) std::printf("FAIL %s\n", what.c_str()), ++failures;
}

template <typename Each>
void run(tracin::Team& team, int64_t n, Each each) {
  team.run(n, [](void* context, int64_t i) { (*static_cast<Each*>(context))(i); }, &each);
}

// Plain integers: what a run writes must be there when it has ended, without another barrier.
void every_item_once(tracin::Team& team, int64_t n) {
  std::vector<int> taken(n);
  run(team, n, [&](int64_t i) { ++taken[i]; });
  for (int64_t i = 0; i < n; ++i)
    expect(taken[i] == 1, "item " + std::to_string(i) + " of " + std::to_string(n) + " is taken once by a team of " +
                              std::to_string(team.size()));
}

void test_items() {
  for (const int64_t size : {1, 2, 3, 8}) {
    tracin::Team team(size);
    for (const int64_t n : {0, 1, 2, 3, 7, 100})
      for (int repeat = 0; repeat < 20; ++repeat) every_item_once(team, n);
  }
}

template <typename Error>
void test_error(int64_t size) {
  tracin::Team team(size);
  for (const int64_t at : {0, 5, 99}) {
    bool thrown = false;
    try {
      run(team, 100, [&](int64_t i) {
        if (i == at) throw Error();
      });
    } catch (const Error&) {
      thrown = true;
    }
    expect(thrown, "an exception of item " + std::to_string(at) + " comes through");
    every_item_once(team, 50);  // and leaves the team as it was
  }
}

struct Odd : std::exception {};

void test_callers() {
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([] {
      for (int repeat = 0; repeat < 20; ++repeat) every_item_once(tracin::own_team(3), 40);
    });
  for (std::thread& caller : callers) caller.join();
}

void test_own_team() {
  tracin::Team* first = &tracin::own_team(3);
  expect(first == &tracin::own_team(3), "a team is kept");
  expect(tracin::own_team(2).size() == 2 && tracin::own_team(5).size() == 5, "a team has the size asked for");
#ifndef __SANITIZE_THREAD__  // which knows no threads after fork
  every_item_once(tracin::own_team(3), 10);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // threads that are not there would be waited for
    every_item_once(tracin::own_team(3), 10);
    std::fflush(stdout);
    _exit(failures ? 1 : 0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child after fork has a team of its own");
  every_item_once(tracin::own_team(3), 10);
#endif
}

}  // namespace

int main() {
  test_items();
  for (const int64_t size : {1, 2, 8}) test_error<std::bad_alloc>(size), test_error<Odd>(size);
  test_callers();
  test_own_team();
  return failures ? 1 : 0;
}
