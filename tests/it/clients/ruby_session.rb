# Ruby's net-ftp, told one step at a time; the steps and their answers are those of support/real_clients.rs.
#
#     ruby_session.rb MODE VERSION PORT AUTHORITY USER PASSWORD
#
# The net-ftp that Debian's Ruby comes with knows only explicit TLS.

require "net/ftp"

$stdout.sync = true

def list_directory(client, directory)
  client.mlsd(directory).each do |entry|
    puts ["entry", entry.facts["type"], entry.facts["size"] || "-", entry.pathname].join("\t")
  end
end

def continue_upload(client, local, remote)
  client.resume = true
  client.putbinaryfile(local, remote)
ensure
  client.resume = false
end

def continue_download(client, remote, local)
  client.resume = true
  client.getbinaryfile(remote, local)
ensure
  client.resume = false
end

STEPS = {
  "upload" => ->(client, local, remote) { client.putbinaryfile(local, remote) },
  "download" => ->(client, remote, local) { client.getbinaryfile(remote, local) },
  "continue-upload" => method(:continue_upload),
  "continue-download" => method(:continue_download),
  "append" => ->(client, local, remote) { File.open(local, "rb") { |file| client.storbinary("APPE " + remote, file, 4096) } },
  "upload-text" => ->(client, local, remote) { client.puttextfile(local, remote) },
  "download-text" => ->(client, remote, local) { client.gettextfile(remote, local) },
  "list" => method(:list_directory),
  "rename" => ->(client, old, new) { client.rename(old, new) },
  "delete" => ->(client, name) { client.delete(name) },
  "mkdir" => ->(client, name) { client.mkdir(name) },
  "rmdir" => ->(client, name) { client.rmdir(name) },
}

# Takes a step and answers it; false when it did not succeed.
def answered
  yield
  puts "done"
  true
rescue Net::FTPPermError, Net::FTPTempError => error
  puts "refused\t#{error.message[0, 3]}"
  false
rescue StandardError => error
  puts "failed\t#{error.inspect.tr("\r\n\t", " ")}"
  false
end

_mode, version, port, authority, user, password = ARGV
number = version == "1.2" ? OpenSSL::SSL::TLS1_2_VERSION : OpenSSL::SSL::TLS1_3_VERSION
tls = {ca_file: authority, verify_mode: OpenSSL::SSL::VERIFY_PEER, min_version: number, max_version: number}
client = nil
entered = answered do
  client = Net::FTP.new("127.0.0.1", port: port.to_i, ssl: tls, read_timeout: 60)
  client.login(user, password)
end
if entered
  $stdin.each_line(chomp: true) do |line|
    step, *arguments = line.split("\t")
    answered { STEPS.fetch(step).call(client, *arguments) }
  end
  client.quit
  client.close
end
